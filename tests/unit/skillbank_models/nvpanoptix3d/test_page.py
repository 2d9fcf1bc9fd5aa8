"""Pages: nothing from outside, text that cannot break them, meshes that survive packing, runs of any size."""

import base64
import re
import zlib
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from nvpanoptix3d_scenes import CATEGORIES, image_scene, room_scene

from skillbank_models.nvpanoptix3d import page
from skillbank_models.nvpanoptix3d.meshes import surface_of
from skillbank_models.nvpanoptix3d.page_mesh import packed
from skillbank_models.nvpanoptix3d.scene_segments import scene_segments
from skillbank_models.nvpanoptix3d.scene_writer import SceneWriter


class Links(HTMLParser):
    """Addresses and ids of a page, and whether its elements are closed in order."""

    EMPTY = {"meta", "link", "img", "input", "br"}

    def __init__(self, text):
        super().__init__()
        self.addresses, self.ids, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        fields = dict(attrs)
        self.addresses += [fields[name] for name in ("href", "src") if name in fields]
        self.ids += [fields["id"]] if "id" in fields else []
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def write(folder, names, *, flat=False, **more):
    writer = SceneWriter(folder, categories=CATEGORIES, rank=0, world=1, **more)
    image, scene, view = image_scene() if flat else room_scene()
    for name in names:
        writer.add(name, name, image, scene, view)
    writer.finish()
    return (folder / "index.html").read_text()


def check_links(path, *, also=()):
    """Links of a page lead to files of the run, to places in it, or are data."""
    links = Links(path.read_text())
    seen = 0
    for address in links.addresses:
        if address.startswith("#"):
            assert address[1:] in links.ids
        elif not address.startswith("data:"):
            assert "://" not in address
            assert (path.parent / unquote(address)).is_file(), address
            seen += 1
    return seen


def test_one_page_holds_everything(tmp_path):
    text = write(tmp_path, ["a.png", "street/b b.png"])
    assert not re.search(r"https?://|//[a-z]+\.", re.sub(r"base64,[\w+/=]+", "", text))
    assert "default-src 'none'" in text
    assert check_links(tmp_path / "index.html") == 2 * 9  # the files of both scenes
    assert text.count('<script type="application/json" id="mesh-') == 2
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".html"] == ["index.html"]
    assert len(text) < 1_500_000


def test_names_cannot_break_the_page(tmp_path):
    name = 'a"><script>alert(1)<b>.png'
    text = write(tmp_path, [name, "</script>.png"], title="<i>&")
    assert "<script>alert" not in text
    assert "a&quot;&gt;&lt;script&gt;alert(1)&lt;b&gt;.png" in text
    assert text.count("</script>") == text.count("<script")
    assert "<title>&lt;i&gt;&amp;</title>" in text
    check_links(tmp_path / "index.html")


def test_scenes_without_volumes_have_pictures_and_no_viewer(tmp_path):
    text = write(tmp_path, ["a.png"], flat=True)
    assert "data:image/jpeg;base64," in text
    assert "<canvas" not in text
    assert "<script" not in text
    assert check_links(tmp_path / "index.html") == 6


def test_many_scenes_get_a_page_each(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_SCENES", 2)
    monkeypatch.setattr(page, "PER_LIST", 3)
    names = [f"{folder}/{number}.png" for folder in ("a", "a/b") for number in range(4)]
    write(tmp_path, names)
    pages = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html"))
    assert pages == sorted(
        ["index.html", "index-2.html", "index-3.html"]
        + [f"pages/{name.removesuffix('.png')}.html" for name in names]
    )
    # cards, and the links to the lists around, above and below them
    assert [check_links(tmp_path / name) for name in pages[2:3] + pages[:2]] == [3 + 2, 3 + 4, 2 + 2]
    for name in pages[3:]:
        assert check_links(tmp_path / name) == 10  # nine files and the way back
    assert "All scenes" in (tmp_path / "pages/a/b/1.html").read_text()


def test_a_page_does_not_outgrow_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_BYTES", 50_000)
    write(tmp_path, ["a.png", "b.png"])
    assert (tmp_path / "pages" / "a.html").is_file()
    assert len((tmp_path / "index.html").read_text()) < 30_000


def test_a_run_without_images_has_a_page(tmp_path):
    assert "No image was given" in write(tmp_path, [])


class TestPacking:
    @pytest.fixture(scope="class")
    @classmethod
    def pair(cls):
        _, scene, view = room_scene()
        mesh = surface_of(scene, view, scene_segments(scene, CATEGORIES).volume)
        return mesh, packed(mesh, view.grid.voxel), view.grid.voxel

    def unpacked(self, fields):
        """Written from the description, not from the writer: byte planes, differences, the highest seen."""
        count, corners = fields["vertices"], 3 * fields["faces"]
        raw = np.frombuffer(zlib.decompress(base64.b64decode(fields["data"])), np.uint8).astype(np.int64)
        assert raw.size == 8 * count + 4 * corners
        axes = []
        for axis in range(3):
            low = raw[2 * count * axis :][:count]
            code = low + 256 * raw[2 * count * axis + count :][:count]
            axes.append(np.cumsum(np.where(code % 2, -(code + 1) // 2, code // 2)))
        points = np.array(fields["origin"]) + fields["step"] * np.stack(axes, axis=1)
        pair = (raw[6 * count : 8 * count].reshape(2, count).T + 128) % 256 - 128
        u, v = pair.T / 127
        w = 1 - np.abs(u) - np.abs(v)
        x = np.where(w < 0, (1 - np.abs(v)) * np.where(u < 0, -1, 1), u)
        y = np.where(w < 0, (1 - np.abs(u)) * np.where(v < 0, -1, 1), v)
        normals = np.stack([x, y, w], axis=1)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        below = (raw[8 * count :].reshape(4, corners) * [[1], [256], [65536], [1 << 24]]).sum(axis=0)
        indices, seen = [], 0
        for value in below.tolist():
            indices.append(seen - value)
            seen += value == 0
        return points, normals, np.array(indices).reshape(-1, 3)

    def test_meshes_come_back(self, pair):
        mesh, fields, voxel = pair
        points, normals, faces = self.unpacked(fields)
        assert np.array_equal(faces, mesh.faces)
        assert np.abs(points - mesh.vertices).max() <= voxel / 32 + 1e-6  # half a step, and six digits
        assert (normals * mesh.normals).sum(axis=1).min() > 0.9995  # 1.8 degrees; two bytes

    def test_they_are_small(self, pair):
        mesh, fields, _ = pair
        plain = 16 * len(mesh.vertices) + 12 * len(mesh.faces)  # 16-bit places, normals, 32-bit indices
        assert len(fields["data"]) < 0.3 * plain

    def test_parts_and_colours_are_told(self, pair):
        mesh, fields, _ = pair
        chair = fields["parts"][3]
        assert (chair["id"], chair["class_color"]) == (4, list(CATEGORIES.color(3)))
        assert fields["parts"][-1]["faces"][1] == fields["faces"] == len(mesh.faces)
