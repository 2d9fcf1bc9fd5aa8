"""What inference leaves behind: files for programs, and pictures, meshes and a page for people.

Layout below the folder of the action, where ``<name>`` is the image relative to its folder without the ending
(with the ending where two images differ in nothing else):

- ``scenes/<name>_panoptic2d.npy`` (h, w) int32 segment ids, 0 = none; ``.png`` the same as palette picture.
  With another mode ``_semantic2d`` holds classes, ``_instance2d`` the ids of things alone.
- ``scenes/<name>_depth.npy`` (h, w) float32 metres along the optical axis; ``.png`` millimetres in 16 bits.
- ``scenes/<name>_volumes.npz``: ``geometry`` float32, unsigned distance to the nearest surface in voxels, at
  most the truncation; ``semantic`` int32 classes; ``panoptic`` int32 segment ids; all (G, G, G), axes x
  right, y down, z forward; also ``intrinsics``, ``origin`` and ``voxel_size_m``.
- ``scenes/<name>.json``: segments of map and volume, camera, grid.
- ``scenes/<name>_preview.jpg``: image, instances, classes and depth.
- ``scenes/<name>_mesh.ply`` in camera coordinates and ``_mesh.glb``, y up; see `mesh_files`.
- ``scenes.json``: all images with their files and segments, and the classes; ``index.html``: the page.

Results without volumes have no volumes and no meshes. A scene without a surface has no meshes. Every file is
complete under its name.
"""

from __future__ import annotations

import base64
import io
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skillbank_models.data.categories import Categories
from skillbank_models.data.result_files import (
    OutputNames,
    categories_json,
    save_image,
    whole_file,
    write_json,
    write_rows,
)
from skillbank_models.data.result_records import ResultRecords
from skillbank_models.nvpanoptix3d.camera import View
from skillbank_models.nvpanoptix3d.mesh_files import write_glb, write_ply
from skillbank_models.nvpanoptix3d.meshes import ISO, SceneMesh, require_mesh_packages, surface_of
from skillbank_models.nvpanoptix3d.outputs import Scene
from skillbank_models.nvpanoptix3d.page import write_pages
from skillbank_models.nvpanoptix3d.page_mesh import packed
from skillbank_models.nvpanoptix3d.preview import depth_range, draw_preview
from skillbank_models.nvpanoptix3d.scene_segments import (
    SceneSegments,
    ShownSegment,
    legible,
    scene_segments,
)

__all__ = ["SceneWriter"]

log = logging.getLogger(__name__)

Mode = Literal["semantic", "instance", "panoptic"]

JPEG = {"quality": 86, "optimize": True}
THUMB = 160  # pixels of the long side of the picture in a list
FASTEST = 1  # level of compression; higher ones make volumes little smaller and take several times as long
AXES = "x right, y down, z forward"


class SceneWriter:
    """Writes the results of images as they come, and joins those of all processes at the end.

    Args:
        folder: of the action; it is made when missing. With several processes all must see it.
        categories: class -> category.
        rank: number of this process.
        world: how many processes write.
        meshes: write meshes and show them on the page.
        volumes: write volumes.
        mode: kind of 2D result.
        iso: distance from the predicted surface at which meshes run, voxels.
        title: heading of the page.

    Raises:
        RuntimeMissingError: what makes meshes is not installed.
        StorageError: nothing can be written there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        categories: Categories,
        rank: int,
        world: int,
        meshes: bool = True,
        volumes: bool = True,
        mode: Mode = "panoptic",
        iso: float = ISO,
        title: str = "Reconstructed rooms",
    ) -> None:
        if meshes:
            require_mesh_packages()
        self.folder = folder
        self.categories = legible(categories)
        self._rank = rank
        self._meshes, self._volumes = meshes, volumes
        self._mode: Mode = mode
        self._iso = iso
        self._title = title
        self._names = OutputNames()
        self._records = ResultRecords(folder, rank=rank, world=world)

    def add(
        self, file_name: str, relative_name: str, image: NDArray[np.uint8], scene: Scene, view: View
    ) -> None:
        """Write what belongs to one image.

        Args:
            file_name: path of the image.
            relative_name: the image relative to its folder.
            image: (H0, W0, 3) RGB.
            scene: result.
            view: where the camera is in the grid of the volumes.

        Raises:
            StorageError: a file cannot be written.
        """
        base = self._names.of(file_name, relative_name)
        stem = f"scenes/{base}"
        segments = scene_segments(scene, self.categories)
        files = self._write_maps(stem, scene, segments.image)
        preview = draw_preview(image, scene.segment_map, segments.image, scene.depth, self.categories)
        files["preview"] = f"{stem}_preview.jpg"
        save_image(self.folder / files["preview"], Image.fromarray(preview), **JPEG)
        if self._volumes and scene.geometry is not None:
            files["volumes"] = f"{stem}_volumes.npz"
            _write_volumes(self.folder / files["volumes"], scene, view)
        mesh = self._write_mesh(relative_name, stem, scene, view, segments, files)
        files["scene"] = f"{stem}.json"
        height, width = image.shape[:2]
        record = {
            "name": relative_name,
            "base": base,
            "height": height,
            "width": width,
            "volume": scene.geometry is not None,
            "files": files,
            "segments_2d": [segment.as_json() for segment in segments.image],
            "segments_3d": [segment.as_json() for segment in segments.volume],
        }
        write_json(self.folder / files["scene"], self._description(record, scene, view))
        self._records.add({**record, "thumb": _thumb(image), "mesh": mesh})

    def finish(self) -> list[tuple[Path, str]]:
        """Join the records of all processes; every process calls it, after its last image.

        Returns:
            The index of all scenes and the page, each with its kind.

        Raises:
            StorageError: records of a process are missing, or a file cannot be written.
        """
        self._records.end()
        index, page = self.folder / "scenes.json", self.folder / "index.html"
        if self._rank == 0:
            places = self._records.places()
            hidden = ("thumb", "mesh", "base", "volume")
            images = (
                {key: value for key, value in record.items() if key not in hidden}
                for record in self._records.read(places)
            )
            write_rows(index, {"images": images, "categories": categories_json(self.categories)})
            sizes = [place.length for place in places]
            write_pages(self.folder, title=self._title, sizes=sizes, records=self._records.read(places))
            log.info("scenes written: %d, to be seen in %s", len(places), page)
            self._records.remove()
        self._records.wait()
        return [(index, "predictions"), (page, "report")]

    def _write_maps(self, stem: str, scene: Scene, segments: Sequence[ShownSegment]) -> dict[str, str]:
        """The 2D result and the depth; their names by kind."""
        kind = f"{self._mode}2d"
        files = {
            kind: f"{stem}_{kind}.npy",
            f"{kind}_image": f"{stem}_{kind}.png",
            "depth": f"{stem}_depth.npy",
            "depth_image": f"{stem}_depth.png",
        }
        values, colors = _map_of(self._mode, scene.segment_map, segments)
        _write_array(self.folder / files[kind], values.astype(np.int32))
        save_image(self.folder / files[f"{kind}_image"], _painted(values, colors))
        depth = scene.depth.astype(np.float32)
        _write_array(self.folder / files["depth"], depth)
        known = np.where(np.isfinite(depth), depth, 0)
        millimetres = (1000 * known).round().clip(0, np.iinfo(np.uint16).max).astype(np.uint16)
        save_image(self.folder / files["depth_image"], Image.fromarray(millimetres))
        return files

    def _write_mesh(
        self,
        name: str,
        stem: str,
        scene: Scene,
        view: View,
        segments: SceneSegments,
        files: dict[str, str],
    ) -> dict[str, Any] | None:
        """Write the meshes, note their names, and return what the page needs of them."""
        if not self._meshes or scene.geometry is None:
            return None
        mesh = surface_of(scene, view, segments.volume, iso=self._iso)
        if mesh is None:
            log.warning("%s: no surface was found, so it has no mesh", name)
            return None
        files |= {"mesh_ply": f"{stem}_mesh.ply", "mesh_glb": f"{stem}_mesh.glb"}
        write_ply(self.folder / files["mesh_ply"], mesh)
        write_glb(self.folder / files["mesh_glb"], mesh, view.camera)
        return _for_page(mesh, scene, view)

    def _description(self, record: dict[str, Any], scene: Scene, view: View) -> dict[str, Any]:
        """Content of the JSON file of a scene."""
        folder = Path(record["files"]["scene"]).parent
        names = {kind: Path(name).relative_to(folder).as_posix() for kind, name in record["files"].items()}
        content: dict[str, Any] = {
            "image": {key: record[key] for key in ("name", "height", "width")},
            "files": {kind: name for kind, name in names.items() if kind != "scene"},
            "camera": {"intrinsics": scene.intrinsics.tolist(), "axes": AXES, "unit": "metre"},
            "map": {"height": scene.segment_map.shape[0], "width": scene.segment_map.shape[1]},
            "segments_2d": record["segments_2d"],
        }
        if scene.geometry is not None:
            content["grid"] = {
                "side": view.grid.side,
                "axes": AXES,
                "voxel_size_m": view.grid.voxel,
                "origin": list(view.origin),
                "voxel_of_point": "round(point / voxel_size_m + origin), point in camera coordinates",
                "geometry": "unsigned distance to the nearest surface, in voxels",
                "truncation": float(scene.geometry.max()),
                "mesh_iso": self._iso,
            }
            content["segments_3d"] = record["segments_3d"]
        return content


def _map_of(
    mode: Mode, segment_map: NDArray[np.int32], segments: Sequence[ShownSegment]
) -> tuple[NDArray[np.int32], dict[int, tuple[int, int, int]]]:
    """Values (h, w) of a kind of result, 0 = none, and the colour of each value."""
    if mode == "panoptic":
        return segment_map, {segment.id: segment.color for segment in segments}
    values = np.zeros_like(segment_map)
    colors = {}
    for segment in segments:
        value, color = (
            (segment.label, segment.class_color) if mode == "semantic" else (segment.id, segment.color)
        )
        if mode == "semantic" or segment.is_thing:
            values[segment_map == segment.id] = value
            colors[value] = color
    return values, colors


def _painted(values: NDArray[np.int32], colors: dict[int, tuple[int, int, int]]) -> Image.Image:
    """Values (h, w) as a palette picture; as plain colours where a value does not fit into a byte."""
    palette = np.zeros((max(255, int(values.max(initial=0)), *colors, 0) + 1, 3), np.uint8)
    for value, color in colors.items():
        palette[value] = color
    if len(palette) > 256:
        return Image.fromarray(palette[values])
    image = Image.frombytes("P", (values.shape[1], values.shape[0]), values.astype(np.uint8).tobytes())
    image.putpalette(palette.tobytes())
    return image


def _write_array(path: Path, values: NDArray[Any]) -> None:
    with whole_file(path) as file:
        np.save(file, values, allow_pickle=False)


def _write_volumes(path: Path, scene: Scene, view: View) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "geometry": np.asarray(scene.geometry, np.float32),
        "semantic": np.asarray(scene.semantic_volume, np.int32),
        "panoptic": np.asarray(scene.panoptic_volume, np.int32),
        "intrinsics": scene.intrinsics,
        "origin": np.array(view.origin),
        "voxel_size_m": np.array(view.grid.voxel),
    }
    with whole_file(path) as file:
        _write_archive(file, arrays)


def _write_archive(file: IO[bytes], arrays: dict[str, NDArray[Any]]) -> None:
    """What `numpy.savez_compressed` writes, at the fastest level."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=FASTEST) as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(values), allow_pickle=False)


def _for_page(mesh: SceneMesh, scene: Scene, view: View) -> dict[str, Any]:
    camera = view.camera
    limits = depth_range(mesh.vertices[:, 2] if not (scene.depth > 0).any() else scene.depth)
    return packed(mesh, view.grid.voxel) | {
        "camera": [camera.width / (2 * camera.fx), camera.height / (2 * camera.fy)],
        "depth": [round(limits.near, 4), round(limits.far, 4)],
    }


def _thumb(image: NDArray[np.uint8]) -> str:
    """A small JPEG in base64."""
    height, width = image.shape[:2]
    share = THUMB / max(height, width)
    size = max(1, round(width * share)), max(1, round(height * share))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    content = io.BytesIO()
    Image.fromarray(small).save(content, format="JPEG", quality=80)
    return base64.b64encode(content.getvalue()).decode("ascii")
