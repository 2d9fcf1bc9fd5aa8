// Shows one scene at a time and joins its list of segments with the viewer.
(() => {
  document.documentElement.classList.add("js");
  const scenes = [...document.querySelectorAll(".scene")];
  const links = [...document.querySelectorAll("nav a[href^='#']")];
  const ramp = JSON.parse(document.getElementById("ramp").textContent);
  const node = document.getElementById("viewer").content.firstElementChild.cloneNode(true);
  const find = (selector) => node.querySelector(selector);
  const wait = find(".wait"), picked = find(".picked"), scale = find(".scale");
  let viewer = null, current = null;

  const rows = () => [...current.querySelectorAll(".segments li[data-id]")];
  const row = (id) => rows().find((item) => Number(item.dataset.id) === id);

  function mark(id) {
    viewer.marked = id;
    for (const item of rows()) {
      const on = Number(item.dataset.id) === id;
      item.classList.toggle("marked", on);
      item.querySelector("button").setAttribute("aria-pressed", String(on));
    }
    const item = id === null ? null : row(id);
    picked.textContent = item ? `${item.dataset.name}${item.dataset.score ? ` · ${item.dataset.score}` : ""}` : "";
    if (item && item.parentElement.scrollHeight > item.parentElement.clientHeight)
      item.scrollIntoView({ block: "nearest" });
    viewer.draw();
  }

  function paintSwatches() {
    const parts = new Map((viewer.mesh?.parts ?? []).map((part) => [part.id, part]));
    for (const item of rows()) {
      const part = parts.get(Number(item.dataset.id));
      if (part) item.querySelector(".swatch").style.background =
        `rgb(${(viewer.mode === "semantic" ? part.class_color : part.color).join(",")})`;
    }
    scale.hidden = viewer.mode !== "depth" || !viewer.mesh;
    if (!scale.hidden) {
      const ends = scale.querySelectorAll("span");
      viewer.range.forEach((value, i) => (ends[i].textContent = `${value.toFixed(1)} m`));
    }
    viewer.draw();
  }

  function connect() {
    for (const item of rows()) {
      const id = Number(item.dataset.id), box = item.querySelector("input"), name = item.querySelector("button");
      box.checked = true;
      box.onchange = () => {
        if (box.checked) viewer.hidden.delete(id); else viewer.hidden.add(id);
        viewer.draw();
      };
      name.setAttribute("aria-pressed", "false");
      name.onclick = () => mark(viewer.marked === id ? null : id);
    }
  }

  async function show(scene) {
    if (scene === current) return;
    current = scene;
    for (const one of scenes) one.classList.toggle("current", one === scene);
    for (const link of links) {
      if (link.hash === `#${scene.id}`) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    const data = document.getElementById(scene.dataset.mesh);
    if (!data) return;
    scene.querySelector(".stage").append(node);
    picked.textContent = "";
    scale.hidden = true;
    wait.textContent = "Loading the mesh …";
    try {
      viewer ??= start();
      const mesh = JSON.parse(data.textContent);
      await viewer.load(mesh);
      if (viewer.mesh !== mesh) return;
      wait.textContent = "";
      connect();
      paintSwatches();
    } catch (error) {
      wait.textContent = `The mesh cannot be shown here: ${error.message}. The pictures and files below can.`;
    }
  }

  function start() {
    const made = new Viewer(find("canvas"), ramp);
    made.onpick = (id) => mark(id === null || made.marked === id ? null : id);
    const stops = Array.from({ length: 9 }, (_, i) => ramp.slice(3 * Math.min(32 * i, 255)).slice(0, 3));
    scale.querySelector("i").style.background =
      `linear-gradient(to right, ${stops.map((stop) => `rgb(${stop.join(",")})`).join(",")})`;
    for (const input of node.querySelectorAll("input[name=mode]")) {
      input.onchange = () => {
        made.mode = input.value;
        paintSwatches();
      };
    }
    for (const button of node.querySelectorAll("button[data-view]")) {
      button.onclick = () => {
        if (!made.mesh) return;
        if (button.dataset.view !== "all") return made[button.dataset.view]();
        made.hidden.clear();
        for (const item of rows()) item.querySelector("input").checked = true;
        mark(null);
      };
    }
    return made;
  }

  const fromAddress = () => scenes.find((scene) => `#${scene.id}` === location.hash);
  addEventListener("hashchange", () => {
    const scene = fromAddress();
    if (scene) show(scene).then(() => scrollTo(0, 0));
  });
  if (scenes.length) show(fromAddress() ?? scenes[0]);
})();
