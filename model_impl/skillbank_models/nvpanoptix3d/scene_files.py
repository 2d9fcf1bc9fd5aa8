"""Where the files of a room image are, for every format, and what can be checked before they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from skillbank.errors import DataError, MissingFilesError, ShapeError
from skillbank_models.data.checks import absent, spread
from skillbank_models.data.images import image_size
from skillbank_models.data.label_map import read_json_file
from skillbank_models.data.problems import Problems, some
from skillbank_models.nvpanoptix3d.camera import Camera

__all__ = [
    "Layout",
    "RoomGeometry",
    "SceneFiles",
    "ScenePixels",
    "SceneRecord",
    "VolumePart",
    "check_files",
    "check_images",
    "check_size",
    "data_folder",
    "read_split",
]

_MOST_HEADERS = 20_000  # some seconds on a local disk
_THREADS = 16
_TOLD = 10  # files of a message


class SceneRecord(NamedTuple):
    """One image of a split.

    Attributes:
        image_id: as in the names of the files, with its leading zeros.
        height: of the image that the camera matrix refers to.
        file_name: picture instead of the one that the ids name; empty = none.
        weight: of the image in the losses.
    """

    scene_id: str
    image_id: str
    height: int
    width: int
    file_name: str = ""
    weight: float = 1.0

    @property
    def name(self) -> str:
        """``<scene_id>/<image_id>``."""
        return f"{self.scene_id}/{self.image_id}"


@dataclass(frozen=True, slots=True)
class SceneFiles:
    """Files of one image.

    Attributes:
        camera: matrix; None where the format has one camera for all images.
        room_mask: pixels of the room; None where the format has no such file, or it is not there.
    """

    image: Path
    depth: Path
    labels: Path
    geometry: Path
    segmentation: Path
    weighting: Path
    camera: Path | None
    room_mask: Path | None


@dataclass(slots=True)
class ScenePixels:
    """Annotations of the pixels of one image, (H0, W0).

    Attributes:
        semantic: classes, 0 = void.
        instance: ids, 0 = none.
        depth: metres, 0 = unknown.
        room: pixels of the reconstructed room; None = all of them.
    """

    semantic: NDArray[np.int32]
    instance: NDArray[np.int32]
    depth: NDArray[np.float32]
    room: NDArray[np.bool_] | None


class RoomGeometry(NamedTuple):
    """Stored geometry, (256, 256, 256), axes x right, y down, z forward.

    Attributes:
        distance: float32, unsigned, in stored voxels.
        inside: voxels inside the frustum; None where the mask is that of the data set.
    """

    distance: NDArray[np.float32]
    inside: NDArray[np.bool_] | None


class VolumePart(NamedTuple):
    """Labels of the stored volume: axes as in `RoomGeometry`, (256, 256, 256) each."""

    semantic: NDArray[np.int32]
    instance: NDArray[np.int32]


class Layout(Protocol):
    """What a data set is read with.

    Attributes:
        shifted: whether the volumes lie where those of 3D-Front do; see `view_of`.
        camera: of all images; None where every image has its own.
        labelled_below: distance to a surface, in voxels, below which voxels have labels.
    """

    labelled_below: float
    shifted: bool
    camera: Camera | None

    def fault(self, record: SceneRecord) -> str:
        """What is wrong with the ids of a record; empty = nothing."""

    def files(self, record: SceneRecord) -> SceneFiles:
        """Its files."""

    def camera_of(self, record: SceneRecord, files: SceneFiles) -> Camera:
        """Intrinsics for the image as stored."""

    def pixels(self, files: SceneFiles, size: tuple[int, int]) -> ScenePixels:
        """Annotations of the pixels of an image of that height and width."""

    def geometry(self, files: SceneFiles) -> RoomGeometry:
        """The distance field."""

    def volume_labels(self, files: SceneFiles) -> VolumePart:
        """Classes and instances of the voxels."""

    def weighting(self, files: SceneFiles) -> NDArray[np.uint8]:
        """Weights of the voxels in the losses, (256, 256, 256)."""


def data_folder(base: Path, key: str) -> Path:
    """The folder of the scenes: ``data`` in the folder that is given, or that folder.

    Raises:
        MissingFilesError: no such folder.
    """
    if not base.is_dir():
        raise MissingFilesError(
            f"{key}: there is no folder {base}", hint=f"ls {base.parent}", key=key, value=str(base)
        )
    inner = base / "data"
    return inner if inner.is_dir() else base


def read_split(path: Path, layout: Layout, key: str) -> list[SceneRecord]:
    """The images that a split lists.

    Args:
        path: a JSON list of ``{"scene_id": ..., "image_id": ..., "height": 240, "width": 320}``.
        key: the setting that names it.

    Raises:
        MissingFilesError: no such file.
        AnnotationError: everything that is wrong with it.
    """
    if not path.is_file():
        raise MissingFilesError(
            f"{key}: there is no split file {path}", hint=f"ls {path.parent}", key=key, value=str(path)
        )
    items = read_json_file(path, "split file")
    problems = Problems(path)
    if not isinstance(items, list) or not items:
        what = "an empty list" if isinstance(items, list) else f"a {type(items).__name__}"
        problems.add(f"a split is a JSON list of images, this is {what}", hint=_EXAMPLE)
        problems.check()
    records = []
    for place, item in enumerate(items):
        fault = _fault(item)
        record = None if fault else _record(item)
        fault = fault or (layout.fault(record) if record is not None else "")
        if fault or record is None:
            problems.add(f"image {place + 1} {fault}", hint=_EXAMPLE)
        else:
            records.append(record)
    problems.check()
    return records


def check_files(
    split: str, records: Sequence[SceneRecord], layout: Layout, wanted: Callable[[SceneFiles], Iterable[Path]]
) -> None:
    """Refuse a split with files that are not there.

    Args:
        split: its name, for messages.
        wanted: the files of an image that will be read.

    Raises:
        MissingFilesError: tells how many are missing, and names the first.
    """
    by_parent: dict[Path, list[str]] = {}
    count = 0
    for record in records:
        for path in wanted(layout.files(record)):
            by_parent.setdefault(path.parent, []).append(path.name)
            count += 1
    missing = [str(parent / name) for parent, names in by_parent.items() for name in absent(parent, names)]
    if missing:
        raise MissingFilesError(
            f"the {split} split: {len(missing)} of {count} files are not there: {some(missing, most=_TOLD)}",
            hint=f"ls {Path(missing[0]).parent}; or take the images out of dataset.{split}.json_path",
            key=f"dataset.{split}.base_dir",
            value=missing[:_TOLD],
        )


def check_images(
    split: str, records: Sequence[SceneRecord], layout: Layout, check: Callable[[Camera, Path], None]
) -> None:
    """Refuse a split whose pictures or cameras are not what the split says.

    Headers are read; of a very long split, of images spread evenly over it.

    Args:
        check: raises for a camera that cannot be used; gets the image too, for the message.

    Raises:
        DataError: everything that was found.
    """
    problems = Problems(f"the {split} split")
    looked_at = spread(records, _MOST_HEADERS)
    with ThreadPoolExecutor(_THREADS) as pool:
        for errors in pool.map(lambda record: list(_faults(record, layout, check)), looked_at):
            for error in errors:
                problems.note(error)
    problems.check()


def check_size(path: Path, found: Sequence[int], record: SceneRecord) -> None:
    """Refuse a picture of another size than the split says.

    Raises:
        ShapeError: tells both sizes.
    """
    if tuple(found[:2]) != (record.height, record.width):
        raise ShapeError(
            f"{path}: {found[0]} x {found[1]} pixels (height x width), but the split says {record.height} x "
            f"{record.width} for {record.name}, and the camera matrix is for that size",
            hint="correct height and width in the split, or give the picture the size of its annotations",
            key=str(path),
            value=list(found[:2]),
        )


def _faults(
    record: SceneRecord, layout: Layout, check: Callable[[Camera, Path], None]
) -> Iterator[DataError]:
    files = layout.files(record)
    try:
        check_size(files.image, image_size(files.image), record)
    except DataError as error:
        yield error
    if layout.camera is None:
        try:
            check(layout.camera_of(record, files), files.image)
        except DataError as error:
            yield error


_EXAMPLE = '[{"scene_id": "a1", "image_id": "0019", "height": 240, "width": 320}]'


def _fault(item: Any) -> str:
    if not isinstance(item, dict):
        return f"is {item!r}; each is an object with scene_id, image_id, height and width"
    for key in ("scene_id", "image_id"):
        value = item.get(key)
        if not isinstance(value, str) or not value.strip():
            return f'has {key} {value!r}; it is a text, such as "0019" with its zeros'
        if {"/", "\\"} & set(value) or value in {".", ".."}:
            return f"has {key} {value!r}; it is the name of a file or folder, without a path"
    for key in ("height", "width"):
        value = item.get(key)
        if type(value) is not int or value < 1:
            return f"({item['image_id']}) has {key} {value!r}; it is a number of pixels above 0"
    name = item.get("file_name", "")
    return "" if name is None or isinstance(name, str) else f"has file_name {name!r}; it is a path"


def _record(item: dict[str, Any]) -> SceneRecord:
    return SceneRecord(
        item["scene_id"], item["image_id"], item["height"], item["width"], item.get("file_name") or ""
    )
