"""Pages that show the results of a run in any browser, each one file that asks for nothing from elsewhere.

A run of a few scenes is one page with everything in it. Otherwise each scene has a page of its own below
``pages/``, and ``index.html``, with as many further lists as it takes, links them.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from skillbank_models.data.result_files import whole_file
from skillbank_models.nvpanoptix3d.preview import depth_ramp

__all__ = ["MOST_BYTES", "MOST_SCENES", "PER_LIST", "write_pages"]

MOST_SCENES = 12  # on one page
MOST_BYTES = 24_000_000  # of one page with several scenes, before pictures
PER_LIST = 240  # scenes in a list of links

Record = dict[str, Any]

_FILE_NOTES = {
    "mesh_glb": "mesh for 3D viewers, a node for each segment",
    "mesh_ply": "mesh with class and segment of each vertex",
    "volumes": "distance, classes and segments of each voxel",
    "depth": "depth in metres, float32",
    "depth_image": "depth in millimetres, 16 bits",
    "panoptic2d": "segment of each pixel, int32",
    "panoptic2d_image": "segments as a picture",
    "semantic2d": "class of each pixel, int32",
    "semantic2d_image": "classes as a picture",
    "instance2d": "thing of each pixel, int32",
    "instance2d_image": "things as a picture",
    "scene": "segments, camera and grid",
    "preview": "the picture of this page",
}


def write_pages(folder: Path, *, title: str, sizes: Sequence[int], records: Iterator[Record]) -> Path:
    """Write the pages of a run.

    Args:
        folder: of the run; the files of the scenes are below it.
        title: heading.
        sizes: bytes that each scene brings along, in the order of `records`.
        records: what `SceneWriter` noted of each scene.

    Returns:
        The page to open first.

    Raises:
        StorageError: a page cannot be written.
    """
    index = folder / "index.html"
    if len(sizes) <= MOST_SCENES and sum(sizes) <= MOST_BYTES:
        _write(index, _scenes_page(folder, title, list(records)))
        return index
    cards = []
    for record in records:
        path = folder / "pages" / f"{record['base']}.html"
        up = "../" * (1 + record["base"].count("/"))
        heading = f"{record['name']} - {title}"
        _write(path, _scenes_page(folder, heading, [record], up=up, back=True))
        cards.append(_card(record))
    lists = [cards[start : start + PER_LIST] for start in range(0, len(cards), PER_LIST)]
    for place, part in enumerate(lists):
        _write(folder / _list_name(place), _list_page(title, part, place, len(lists), len(cards)))
    return index


def _write(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode())


def _list_name(place: int) -> str:
    return "index.html" if place == 0 else f"index-{place + 1}.html"


def _text_of(name: str) -> str:
    return (files("skillbank_models.nvpanoptix3d") / "page_files" / name).read_text(encoding="utf-8")


def _filled(template: str, **values: str) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], _text_of(template))


def _json(value: Any) -> str:
    """JSON that cannot end the element it is in."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _scenes_page(folder: Path, title: str, records: list[Record], *, up: str = "", back: bool = False) -> str:
    several = len(records) > 1
    data = "\n".join(
        f'<script type="application/json" id="mesh-{place}">{_json(record["mesh"])}</script>'
        for place, record in enumerate(records, 1)
        if record["mesh"]
    )
    nav = ""
    if several:
        links = "\n".join(
            f'<li><a href="#scene-{place}">{_thumb(record)}{escape(record["name"])}</a></li>'
            for place, record in enumerate(records, 1)
        )
        nav = f'<nav aria-labelledby="list"><h2 id="list">Scenes</h2>\n<ul>\n{links}\n</ul></nav>'
    elif back:
        nav = f'<nav aria-label="Run"><p><a href="{up}index.html">All scenes</a></p></nav>'
    meshes = sum(1 for record in records if record["mesh"])
    summary = f"{_counted(len(records), 'scene')}, {meshes or 'none'} with a mesh."
    viewer = ""
    if meshes or several:
        script = f"{_text_of('viewer.js')}\n{_text_of('page.js')}"
        viewer = _filled("viewer.html", ramp=_json(depth_ramp().ravel().tolist()), data=data, script=script)
    return _filled(
        "page.html",
        title=escape(title),
        style=_text_of("page.css"),
        summary=summary,
        layout=" several" if several else "",
        nav=nav,
        content="\n".join(_section(folder, record, place, up) for place, record in enumerate(records, 1))
        or "<p>No image was given.</p>",
        viewer=viewer,
    )


def _section(folder: Path, record: Record, place: int, up: str) -> str:
    found = _counted(len(record["segments_2d"]), "segment")
    facts = [f"{record['width']} x {record['height']} pixels", found]
    if record["mesh"]:
        in_3d = _counted(len(record["mesh"]["parts"]), "part")
        facts += [f"{in_3d} in 3D", f"{record['mesh']['faces']:,} triangles"]
        segments = _segment_list(record["segments_3d"], record["mesh"]["parts"])
        stage = (
            '<div class="columns"><div class="stage js-only"></div>\n'
            f'<aside class="card"><h3>Segments</h3>\n{segments}</aside></div>'
        )
    else:
        stage = ""
        if record["segments_3d"] or record["volume"]:
            facts.append("the volume is empty")
    flat = _segment_list(record["segments_2d"], None)
    side = "" if record["mesh"] else f"<h3>Segments</h3>\n{flat}\n<br>"
    picture = _data_uri((folder / record["files"]["preview"]).read_bytes())
    alt = f"{record['name']}: the image, its instances, its classes and its depth"
    labels = f'aria-labelledby="name-{place}" data-mesh="mesh-{place}"'
    return f"""<section class="scene" id="scene-{place}" {labels}>
<div><h2 id="name-{place}">{escape(record["name"])}</h2><p class="facts">{escape(" · ".join(facts))}</p></div>
{stage}
<div class="below"><figure class="card"><img src="{picture}" alt="{escape(alt)}"></figure>
<aside class="card">{side}<h3>Files</h3>
{_file_list(folder, record, up)}</aside></div>
</section>"""


def _segment_list(segments: list[Record], parts: list[Record] | None) -> str:
    """Segments with their colours; with controls for those of a mesh."""
    if parts is None:
        shown = segments
    else:
        known = {segment["id"]: segment for segment in segments}
        rest = {"name": "unassigned", "class_name": "", "score": None}
        shown = [known.get(part["id"], rest) | {"id": part["id"], "color": part["color"]} for part in parts]
    rows = []
    for segment in shown:
        score = "" if segment["score"] is None else f"{100 * segment['score']:.0f}%"
        name, color = escape(segment["name"]), ",".join(str(value) for value in segment["color"])
        swatch = f'<span class="swatch" style="background:rgb({color})"></span>'
        tail = f'<span class="score">{score}</span>'
        if parts is None:
            rows.append(f'<li>{swatch}<span class="name">{name}</span>{tail}</li>')
            continue
        rows.append(
            f'<li data-id="{segment["id"]}" data-name="{name}" data-score="{score}">'
            f'<input class="js-only" type="checkbox" checked aria-label="show {name}">{swatch}'
            f'<button class="name" type="button">{name}</button>{tail}</li>'
        )
    return '<ul class="segments">\n' + "\n".join(rows) + "\n</ul>"


def _file_list(folder: Path, record: Record, up: str) -> str:
    rows = []
    for kind, note in _FILE_NOTES.items():
        if kind in record["files"]:
            name = record["files"][kind]
            size = _megabytes((folder / name).stat().st_size)
            label = escape(Path(name).name)
            href = escape(up + quote(name))
            rows.append(f'<li><a href="{href}" download>{label}</a> <span>{size}, {note}</span></li>')
    return '<ul class="files">\n' + "\n".join(rows) + "\n</ul>"


def _card(record: Record) -> str:
    path = escape(quote(f"pages/{record['base']}.html"))
    segments = record["segments_3d"] or record["segments_2d"]
    return (
        f'<li><a href="{path}">{_thumb(record)}{escape(record["name"])}'
        f"<small>{_counted(len(segments), 'segment')}</small></a></li>"
    )


def _list_page(title: str, cards: list[str], place: int, lists: int, scenes: int) -> str:
    turn = ""
    if lists > 1:
        links = []
        if place > 0:
            links.append(f'<a href="{_list_name(place - 1)}">Previous</a>')
        links.append(f"<span>Page {place + 1} of {lists}</span>")
        if place < lists - 1:
            links.append(f'<a href="{_list_name(place + 1)}">Next</a>')
        turn = f'<nav class="turn" aria-label="Pages">{"".join(links)}</nav>'
    body = '<ul class="cards">\n' + "\n".join(cards) + "\n</ul>"
    return _filled(
        "page.html",
        title=escape(title),
        style=_text_of("page.css"),
        summary=_counted(scenes, "scene") + ".",
        layout="",
        nav="",
        content=f"{turn}\n{body}\n{turn}",
        viewer="",
    )


def _thumb(record: Record) -> str:
    return f'<img src="data:image/jpeg;base64,{record["thumb"]}" alt="">'


def _data_uri(content: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{max(count / 1e3, 0.1):.1f} kB"
