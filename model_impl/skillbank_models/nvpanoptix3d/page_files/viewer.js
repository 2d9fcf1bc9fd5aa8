// Draws a room and lets it be turned. World: x right, y up, the photo was taken from 0 along -z; metres.
"use strict";

const VERTEX_SHADER = `#version 300 es
uniform mat4 clip; uniform vec3 origin; uniform float step_;
in vec3 position; in vec3 normal;
out vec3 place; out vec3 side; out float depth;
void main() {
  vec3 p = origin + step_ * position;
  place = vec3(p.x, -p.y, -p.z);
  side = vec3(normal.x, -normal.y, -normal.z);
  depth = p.z;
  gl_Position = clip * vec4(place, 1.0);
}`;
const FRAGMENT_SHADER = `#version 300 es
precision highp float;
uniform vec3 color; uniform vec3 eye; uniform vec2 range; uniform float byDepth, dimmed, flat_;
uniform vec3 paper; uniform sampler2D ramp;
in vec3 place; in vec3 side; in float depth;
out vec4 result;
void main() {
  vec3 base = color;
  if (byDepth > 0.5) base = texture(ramp, vec2((depth - range.x) / (range.y - range.x), 0.5)).rgb;
  if (flat_ > 0.5) { result = vec4(color, 1.0); return; }
  vec3 n = normalize(side), to = normalize(eye - place);
  if (dot(n, to) < 0.0) n = -n;
  float head = dot(n, to), sky = 0.5 + 0.5 * n.y, lamp = max(dot(n, normalize(vec3(-0.5, 0.8, 0.6))), 0.0);
  vec3 lit = base * (0.42 + 0.2 * sky + 0.28 * head + 0.2 * lamp);
  result = vec4(mix(min(lit, 1.0), paper, dimmed), 1.0);
}`;
const LINE_VERTEX = `#version 300 es
uniform mat4 clip; in vec3 position; void main() { gl_Position = clip * vec4(position, 1.0); }`;
const LINE_FRAGMENT = `#version 300 es
precision highp float; uniform vec3 color; out vec4 result; void main() { result = vec4(color, 1.0); }`;

/** Bytes of a packed mesh -> positions, normals and indices; the counterpart of page_mesh.py. */
async function unpack(mesh) {
  const text = atob(mesh.data), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());
  const V = mesh.vertices, N = 3 * mesh.faces;
  const positions = new Int16Array(4 * V), normals = new Int8Array(4 * V), indices = new Uint32Array(N);
  for (let axis = 0; axis < 3; axis++) {
    let low = 2 * V * axis, value = 0;
    for (let i = 0; i < V; i++, low++) {
      const code = raw[low] | (raw[low + V] << 8);
      value += code & 1 ? -((code + 1) >> 1) : code >> 1;
      positions[4 * i + axis] = value;
    }
  }
  const sides = new Int8Array(raw.buffer, 6 * V, 2 * V);
  for (let i = 0; i < V; i++) {
    let x = sides[i] / 127, y = sides[V + i] / 127;
    const z = 1 - Math.abs(x) - Math.abs(y);
    if (z < 0) {
      const folded = (1 - Math.abs(y)) * (x < 0 ? -1 : 1);
      y = (1 - Math.abs(x)) * (y < 0 ? -1 : 1);
      x = folded;
    }
    const share = 127 / Math.hypot(x, y, z);
    normals.set([x * share, y * share, z * share], 4 * i);
  }
  const start = 8 * V;
  for (let i = 0, seen = 0; i < N; i++) {
    const at = start + i;
    indices[i] = seen - (raw[at] | (raw[at + N] << 8) | (raw[at + 2 * N] << 16) | (raw[at + 3 * N] << 24));
    if (indices[i] === seen) seen++;
  }
  return { positions, normals, indices };
}

const sub = (a, b) => a.map((value, i) => value - b[i]);
const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => a.map((value) => value / Math.hypot(...a));

/** Product of a perspective and a view matrix, by columns. */
function clipMatrix(eye, right, up, back, fov, aspect, near, far) {
  const f = 1 / Math.tan(fov / 2), a = (far + near) / (near - far), b = (2 * far * near) / (near - far);
  const rows = [right, up, back].map((axis) => [...axis, -dot(axis, eye)]);
  const out = new Float32Array(16);
  for (let c = 0; c < 4; c++) {
    out[4 * c] = (f / aspect) * rows[0][c];
    out[4 * c + 1] = f * rows[1][c];
    out[4 * c + 2] = a * rows[2][c] + (c === 3 ? b : 0);
    out[4 * c + 3] = -rows[2][c];
  }
  return out;
}

class Viewer {
  /** @param {HTMLCanvasElement} canvas  @param {number[]} ramp RGB of 256 depths, near to far */
  constructor(canvas, ramp) {
    this.canvas = canvas;
    const gl = canvas.getContext("webgl2", { antialias: true });
    if (!gl) throw new Error("WebGL 2 is not available");
    this.gl = gl;
    this.surface = this.program(VERTEX_SHADER, FRAGMENT_SHADER);
    this.lines = this.program(LINE_VERTEX, LINE_FRAGMENT);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB8, 256, 1, 0, gl.RGB, gl.UNSIGNED_BYTE, new Uint8Array(ramp));
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.LINEAR);
    for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
    this.mode = "panoptic";
    this.hidden = new Set();
    this.marked = null; // id of the segment that stands out
    this.mesh = null;
    this.onpick = () => {};
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  program(vertex, fragment) {
    const gl = this.gl, program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.bindAttribLocation(program, 0, "position");
    gl.bindAttribLocation(program, 1, "normal");
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    const names = ["clip", "origin", "step_", "color", "eye", "range", "byDepth", "dimmed", "flat_", "paper"];
    const uniforms = Object.fromEntries(names.map((name) => [name, gl.getUniformLocation(program, name)]));
    return { program, uniforms };
  }

  /** Show another room. */
  async load(mesh) {
    this.mesh = null;
    this.draw();
    this.wanted = mesh;
    const { positions, normals, indices } = await unpack(mesh);
    if (this.wanted !== mesh) return; // another room was chosen meanwhile
    const gl = this.gl;
    for (const buffer of this.buffers ?? []) gl.deleteBuffer(buffer);
    gl.bindVertexArray((this.array ??= gl.createVertexArray()));
    const fill = (target, data) => {
      const buffer = gl.createBuffer();
      gl.bindBuffer(target, buffer);
      gl.bufferData(target, data, gl.STATIC_DRAW);
      return buffer;
    };
    this.buffers = [fill(gl.ARRAY_BUFFER, positions)];
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 3, gl.SHORT, false, 8, 0);
    this.buffers.push(fill(gl.ARRAY_BUFFER, normals));
    gl.enableVertexAttribArray(1);
    gl.vertexAttribPointer(1, 3, gl.BYTE, true, 4, 0);
    this.buffers.push(fill(gl.ELEMENT_ARRAY_BUFFER, indices));
    gl.bindVertexArray(null);
    const low = [Infinity, Infinity, Infinity], high = low.map((value) => -value);
    for (let i = 0; i < positions.length; i += 4)
      for (let axis = 0; axis < 3; axis++) {
        low[axis] = Math.min(low[axis], positions[i + axis]);
        high[axis] = Math.max(high[axis], positions[i + axis]);
      }
    const place = (p) => p.map((value, i) => (mesh.origin[i] + mesh.step * value) * (i ? -1 : 1));
    this.center = place(low.map((value, i) => (value + high[i]) / 2));
    this.size = (mesh.step * Math.hypot(...sub(high, low))) / 2;
    this.range = [2, 2].map((axis, i) => mesh.origin[axis] + mesh.step * [low, high][i][axis]);
    if (mesh.depth) this.range = mesh.depth;
    this.mesh = mesh;
    this.gizmo();
    this.hidden.clear();
    this.marked = null;
    this.reset();
  }

  /** Lines from the camera to the corners of the photo. */
  gizmo() {
    const gl = this.gl, [across, down] = this.mesh.camera, far = 0.12 * this.size;
    const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([x, y]) => [
      x * across * far, y * down * far, -far,
    ]);
    const points = corners.flatMap((corner, i) => [[0, 0, 0], corner, corner, corners[(i + 1) % 4]]);
    gl.bindVertexArray((this.lineArray ??= gl.createVertexArray()));
    gl.bindBuffer(gl.ARRAY_BUFFER, (this.lineBuffer ??= gl.createBuffer()));
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(points.flat()), gl.STATIC_DRAW);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 0, 0);
    gl.bindVertexArray(null);
  }

  /** From behind and above the camera, the whole room in view. */
  reset() {
    this.look(this.center, 0.42, 0.34, (0.84 * this.size) / Math.sin(this.halfAngle(0.75)), 0.75);
  }

  /** As the camera saw it. */
  photo() {
    const [across, down] = this.mesh.camera, away = -this.center[2];
    const aspect = this.canvas.clientWidth / Math.max(this.canvas.clientHeight, 1);
    const fov = 2 * Math.atan(Math.max(down, across / aspect));
    this.look([0, 0, -away], 0, 0, away, fov);
  }

  /** From straight above. */
  above() {
    this.look(this.center, 0, Math.PI / 2 - 0.001, (0.84 * this.size) / Math.sin(this.halfAngle(0.75)), 0.75);
  }

  halfAngle(fov) {
    const aspect = this.canvas.clientWidth / Math.max(this.canvas.clientHeight, 1);
    return Math.min(fov / 2, Math.atan(Math.tan(fov / 2) * aspect));
  }

  look(target, yaw, pitch, distance, fov) {
    Object.assign(this, { target: [...target], yaw, pitch, distance, fov });
    this.draw();
  }

  turn(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = Math.min(Math.max(this.pitch + pitch, -Math.PI / 2 + 0.001), Math.PI / 2 - 0.001);
    this.draw();
  }

  zoom(factor) {
    this.distance = Math.min(Math.max(this.distance * factor, 0.02 * this.size), 12 * this.size);
    this.draw();
  }

  /** Move sideways by shares of the picture. */
  move(x, y) {
    const { right, up } = this.axes(), reach = 2 * this.distance * Math.tan(this.fov / 2);
    this.target = this.target.map((value, i) => value - reach * (x * right[i] - y * up[i]));
    this.draw();
  }

  axes() {
    const flat = Math.cos(this.pitch);
    const back = [flat * Math.sin(this.yaw), Math.sin(this.pitch), flat * Math.cos(this.yaw)];
    const right = unit(cross([0, 1, 0], back));
    return { right, up: cross(back, right), back, eye: this.target.map((v, i) => v + this.distance * back[i]) };
  }

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.paint(false);
    });
  }

  paint(picking) {
    const gl = this.gl, canvas = this.canvas, scale = Math.min(devicePixelRatio || 1, 2);
    const width = Math.round(canvas.clientWidth * scale), height = Math.round(canvas.clientHeight * scale);
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const style = getComputedStyle(canvas);
    const paper = style.backgroundColor.match(/[\d.]+/g).slice(0, 3).map((value) => value / 255);
    const ink = style.color.match(/[\d.]+/g).slice(0, 3).map((value) => value / 255);
    gl.viewport(0, 0, width, height);
    if (picking) gl.clearColor(0, 0, 0, 1);
    else gl.clearColor(...paper, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    if (!this.mesh) return;
    gl.enable(gl.DEPTH_TEST);
    const { eye, right, up, back } = this.axes();
    const near = Math.max(0.01 * this.size, 0.005), far = this.distance + 8 * this.size;
    const clip = clipMatrix(eye, right, up, back, this.fov, width / height, near, far);
    const { program, uniforms } = this.surface;
    gl.useProgram(program);
    gl.uniformMatrix4fv(uniforms.clip, false, clip);
    gl.uniform3fv(uniforms.origin, this.mesh.origin);
    gl.uniform1f(uniforms.step_, this.mesh.step);
    gl.uniform3fv(uniforms.eye, eye);
    gl.uniform2fv(uniforms.range, this.range);
    gl.uniform3fv(uniforms.paper, paper);
    gl.uniform1f(uniforms.byDepth, !picking && this.mode === "depth" ? 1 : 0);
    gl.uniform1f(uniforms.flat_, picking ? 1 : 0);
    gl.bindVertexArray(this.array);
    this.mesh.parts.forEach((part, place) => {
      if (this.hidden.has(part.id)) return;
      const shown = this.mode === "semantic" ? part.class_color : part.color;
      const color = picking ? [place + 1, (place + 1) >> 8, 0] : shown;
      gl.uniform3fv(uniforms.color, color.map((value) => (value & 255) / 255));
      gl.uniform1f(uniforms.dimmed, this.marked === null || this.marked === part.id ? 0 : 0.8);
      const [first, last] = part.faces;
      gl.drawElements(gl.TRIANGLES, 3 * (last - first), gl.UNSIGNED_INT, 12 * first);
    });
    if (!picking) {
      gl.useProgram(this.lines.program);
      gl.uniformMatrix4fv(this.lines.uniforms.clip, false, clip);
      gl.uniform3fv(this.lines.uniforms.color, ink);
      gl.bindVertexArray(this.lineArray);
      gl.drawArrays(gl.LINES, 0, 16);
    }
    gl.bindVertexArray(null);
  }

  /** Id of the segment at a point of the canvas; null where there is none. */
  pick(x, y) {
    if (!this.mesh) return null;
    const gl = this.gl, pixel = new Uint8Array(4), scale = this.canvas.width / this.canvas.clientWidth;
    this.paint(true);
    gl.readPixels(Math.round(x * scale), this.canvas.height - 1 - Math.round(y * scale), 1, 1, gl.RGBA,
      gl.UNSIGNED_BYTE, pixel);
    this.paint(false);
    return this.mesh.parts[pixel[0] + 256 * pixel[1] - 1]?.id ?? null;
  }

  listen() {
    const canvas = this.canvas, fingers = new Map();
    let moved = 0;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, event);
      if (fingers.size === 1) moved = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before || !this.mesh) return;
      const x = event.clientX - before.clientX, y = event.clientY - before.clientY;
      moved += Math.abs(x) + Math.abs(y);
      if (fingers.size === 2) {
        const other = [...fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
        const gap = (a) => Math.hypot(a.clientX - other.clientX, a.clientY - other.clientY);
        this.move(x / 2 / canvas.clientHeight, y / 2 / canvas.clientHeight);
        this.zoom(Math.max(gap(before), 1) / Math.max(gap(event), 1));
      } else if (event.shiftKey || event.buttons & 6) this.move(x / canvas.clientHeight, y / canvas.clientHeight);
      else this.turn(-0.007 * x, 0.007 * y);
      fingers.set(event.pointerId, event);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (fingers.size === 1 && moved < 5 && event.button === 0) this.onpick(this.pick(event.offsetX, event.offsetY));
    });
    for (const name of ["pointerup", "pointercancel"])
      canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      if (!this.mesh) return;
      event.preventDefault();
      this.zoom(Math.exp(0.0012 * event.deltaY * (event.deltaMode ? 30 : 1)));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (!this.mesh || event.ctrlKey || event.altKey || event.metaKey) return;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const arrow = arrows[event.key];
    if (arrow && event.shiftKey) this.move(-0.06 * arrow[0], -0.06 * arrow[1]);
    else if (arrow) this.turn(0.13 * arrow[0], -0.13 * arrow[1]);
    else if (event.key === "+" || event.key === "=") this.zoom(0.87);
    else if (event.key === "-") this.zoom(1.15);
    else if (event.key === "0" || event.key === "Home") this.reset();
    else return;
    event.preventDefault();
  }
}
