"""Pictures of rooms in the file layouts of 3D-Front and Matterport3D.

Types, keys and meaning are those of the public samples. The weight of a voxel is 5 (Matterport3D: 25) where
it is near a surface, else 1, and twice that where it is behind what the camera sees.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from skillbank_models.nvpanoptix3d.camera import FRONT3D_CAMERA, STORED_SIDE, Camera
from skillbank_models.nvpanoptix3d.front3d import MIRRORED
from skillbank_models.nvpanoptix3d.rooms.annotated import AnnotatedView
from skillbank_models.nvpanoptix3d.rooms.arrays_file import Member, write_npz
from skillbank_models.nvpanoptix3d.rooms.volumes import REACH

__all__ = ["STORES", "Store", "write_mask"]

_FINE = 1024.0  # steps per voxel, 0.03 mm; finer ones would double the size of the files
_NEAR = 3.0  # voxels
_BEHIND = -1.0  # voxels; signed distances down to this are near too, as in the public sample
_FIRST_STUFF = 10
_PER_METRE = 4000.0  # of depth images of Matterport3D
_MATTERPORT = Camera(269.42, 252.70, 159.5, 122.0, 320, 240)


class Store(ABC):
    """A file layout."""

    shifted: bool

    @abstractmethod
    def camera(self, rng: np.random.Generator, size: tuple[int, int]) -> Camera:
        """A camera for pictures of that height and width."""

    @abstractmethod
    def name(self, rng: np.random.Generator, number: int) -> str:
        """The image id of the image of that number in its scene, from 0."""

    @abstractmethod
    def write(self, folder: Path, scene_id: str, image_id: str, seen: AnnotatedView) -> Path:
        """Write all files of an image below the dataset root; tells where the picture is."""


class Front3dStore(Store):
    """Writes ``data/<scene_id>/<kind>_<image_id>...``."""

    shifted = True

    def camera(self, rng: np.random.Generator, size: tuple[int, int]) -> Camera:
        """The one that all images share."""
        return FRONT3D_CAMERA.scaled(size[1], size[0])

    def name(self, rng: np.random.Generator, number: int) -> str:
        """``0000`` and up."""
        return f"{number:04d}"

    def write(self, folder: Path, scene_id: str, image_id: str, seen: AnnotatedView) -> Path:
        """Eight files."""
        base = folder / "data" / scene_id
        base.mkdir(parents=True, exist_ok=True)
        picture = base / f"rgb_{image_id}.png"
        Image.fromarray(seen.picture).save(picture)
        _write_exr(base / f"depth_{image_id}.exr", seen.depth)
        _write_maps(base / f"segmap_{image_id}.mapped.npz", seen, channels=2)
        write_npz(
            base / f"campose_{image_id}.npz", Member("camera2world", [_camera_to_world(seen)], np.float64)
        )
        distance = np.round(seen.distance * np.float32(_FINE)) / np.float32(_FINE)
        labelled = distance < 1
        things = labelled & (seen.classes < _FIRST_STUFF)
        classes, ids = np.where(labelled, seen.classes, 0), np.where(things, seen.ids, 0)
        weights = _weights(seen, distance < _NEAR, 5)

        def member(fill: float, dtype: DTypeLike, *parts: NDArray[Any]) -> Member:
            return Member("data", [_whole(seen, part, fill) for part in parts], dtype, MIRRORED)

        write_npz(base / f"geometry_{image_id}.npz", member(REACH, np.float64, distance))
        write_npz(base / f"segmentation_{image_id}.mapped.npz", member(0, np.int32, classes, ids))
        write_npz(base / f"weighting_{image_id}.npz", member(1, np.int16, weights))
        return picture


class MatterportStore(Store):
    """Writes ``data/<scene_id>/<name>_<kind><angle>_<rotation>...``, depth and room masks."""

    shifted = False

    def camera(self, rng: np.random.Generator, size: tuple[int, int]) -> Camera:
        """One of its own for each image, about that of the public sample."""
        across, down = rng.uniform(0.98, 1.04), rng.uniform(0.98, 1.04)
        camera = Camera(
            _MATTERPORT.fx * across,
            _MATTERPORT.fy * down,
            _MATTERPORT.cx + rng.uniform(-2.5, 2.5),
            _MATTERPORT.cy + rng.uniform(-3.5, 3.5),
            _MATTERPORT.width,
            _MATTERPORT.height,
        )
        return camera.scaled(size[1], size[0])

    def name(self, rng: np.random.Generator, number: int) -> str:
        """``<32 hexadecimal digits>_<angle>_<rotation>``."""
        return f"{rng.bytes(16).hex()}_{int(rng.integers(3))}_{int(rng.integers(6))}"

    def write(self, folder: Path, scene_id: str, image_id: str, seen: AnnotatedView) -> Path:
        """Six files, depth and a room mask; panes of windows have no depth and are not part of the room."""
        name, angle, rotation = image_id.split("_")
        base, view = folder / "data" / scene_id, f"{angle}_{rotation}"
        depths, rooms = folder / "depth_gen" / scene_id, folder / "room_mask" / scene_id
        for place in (base, depths, rooms):
            place.mkdir(parents=True, exist_ok=True)
        picture = base / f"{name}_i{view}.jpg"
        Image.fromarray(seen.picture).save(picture, quality=95)
        levels = np.where(seen.glass, 0, np.rint(seen.depth * _PER_METRE)).astype(np.uint16)
        Image.fromarray(levels).save(depths / f"{name}_d{view}.png")
        Image.fromarray(np.where(seen.glass, 0, 255).astype(np.uint8)).save(rooms / f"{name}_rm{view}.png")
        matrix = np.eye(4)
        matrix[:3, :3] = seen.view.camera.matrix()
        np.save(base / f"{name}_intrinsics_{angle}.npy", matrix)
        _write_maps(base / f"{name}_segmap{view}.mapped.npz", seen, channels=3)
        signed = np.where(seen.is_solid, -seen.distance, seen.distance)
        labelled = seen.inside[seen.place] & (seen.distance < _NEAR)
        classes, ids = np.where(labelled, seen.classes, 0), np.where(labelled, seen.ids, 0)
        weights = _weights(seen, (signed < _NEAR) & (signed > _BEHIND), 25)
        signed = np.where(seen.inside[seen.place], signed, np.float32(-REACH))
        volumes = [_whole(seen, part, 0) for part in (classes, ids)]
        write_npz(
            base / f"{name}_geometry{view}.npz",
            Member("data", [_whole(seen, signed, -REACH)], np.float32),
            Member("mask", [~seen.inside], np.bool_),
        )
        write_npz(base / f"{name}_segmentation{view}.mapped.npz", Member("data", volumes, np.int32))
        write_npz(base / f"{name}_weighting{view}.npz", Member("data", [_whole(seen, weights, 1)], np.int16))
        return picture


STORES: Mapping[str, Store] = {"front3d": Front3dStore(), "matterport": MatterportStore()}


def write_mask(path: Path, inside: NDArray[np.bool_]) -> None:
    """The frustum mask of a data set, mirrored as the volumes of 3D-Front are."""
    write_npz(path, Member("mask", [inside], np.bool_, MIRRORED))


def _whole(seen: AnnotatedView, part: NDArray[Any], fill: float) -> NDArray[Any]:
    """A part of the grid in the whole one."""
    found = np.full((STORED_SIDE,) * 3, fill, part.dtype)
    found[seen.place] = part
    return found


def _weights(seen: AnnotatedView, is_near: NDArray[np.bool_], factor: int) -> NDArray[np.uint8]:
    found = np.where(is_near, np.uint8(factor), np.uint8(1))
    found += found * seen.is_hidden
    found[~seen.inside[seen.place]] = 1
    return found


def _write_maps(path: Path, seen: AnnotatedView, *, channels: int) -> None:
    maps = np.zeros((*seen.depth.shape, channels), np.uint32)
    maps[..., 0], maps[..., 1] = seen.semantic, seen.instance
    write_npz(path, Member("data", [maps], np.uint32))


def _write_exr(path: Path, depth: NDArray[np.float32]) -> None:
    import OpenEXR

    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(header, {"Z": depth}) as file:
        file.write(str(path))


def _camera_to_world(seen: AnnotatedView) -> NDArray[np.float64]:
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = seen.pose.rotation.T, seen.pose.place
    return found
