"""Pictures of a folder, for inference, and what is known of their cameras.

Letters: `H0 W0` picture as stored, `h w` image as it is used, `G` side of the grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset

from skillbank.errors import DataError, InvalidValueError, MissingFilesError
from skillbank_models.data.checks import check_headers
from skillbank_models.data.folder import find_images
from skillbank_models.data.images import image_size, read_image
from skillbank_models.data.problems import Problems, some
from skillbank_models.nvpanoptix3d.camera import FRONT3D_CAMERA, Camera
from skillbank_models.nvpanoptix3d.frustum import frustum_mask
from skillbank_models.nvpanoptix3d.intrinsics import MATRIX_ENDINGS, read_matrix
from skillbank_models.nvpanoptix3d.scene_augment import SceneSize, to_target_size
from skillbank_models.nvpanoptix3d.scene_set import SceneSample, SceneSettings, checked_view

__all__ = ["CameraSource", "PhotoFolder", "camera_source", "photo_folder"]

_KEY = "inference.intrinsics"
_ALLOWED = ("camera_head", "dataset", "a camera matrix (.npy, .txt, .json)", "a folder of them")


@dataclass(frozen=True, slots=True)
class CameraSource:
    """Where the cameras of pictures come from.

    Attributes:
        matrices: file of each picture that has one, by the picture's name.
        shared: file for all pictures.
        is_dataset: pictures without a file have the camera of the data set; otherwise it is not known.
    """

    matrices: Mapping[str, Path]
    shared: Path | None
    is_dataset: bool

    def camera(self, name: str, height: int, width: int) -> Camera | None:
        """The camera of a picture of that size as stored; None = not known.

        Raises:
            DataError: its matrix cannot be used.
        """
        path = self.matrices.get(name, self.shared)
        if path is not None:
            return read_matrix(path, width, height)
        return FRONT3D_CAMERA.scaled(width, height) if self.is_dataset else None


class PhotoFolder(Dataset[SceneSample]):
    """Pictures without annotations.

    Every picture is brought to `dataset.target_size` first, whatever its shape; its camera follows.

    Args:
        names: relative to the folder; they are the ids.
        shifted: whether the network learnt from volumes of 3D-Front's kind.
        frustum: (G, G, G) mask for pictures with the camera of the data set; None = computed.
    """

    def __init__(
        self,
        *,
        folder: Path,
        names: Sequence[str],
        cameras: CameraSource,
        size: SceneSize,
        settings: SceneSettings,
        shifted: bool,
        frustum: torch.Tensor | None,
    ) -> None:
        self.folder = folder
        self.names = list(names)
        self.cameras = cameras
        self.size = size
        self.settings = settings
        self.shifted = shifted
        self.frustum = frustum

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> SceneSample:
        """The sample at a place.

        Raises:
            DataError: the picture or its camera cannot be used; the message names the file.
        """
        name, settings = self.names[index], self.settings
        path = self.folder / name
        image = read_image(path)  # (H0, W0, 3)
        original = image.shape[0], image.shape[1]
        found = self.cameras.camera(name, *original)
        camera = found or FRONT3D_CAMERA.scaled(original[1], original[0])
        view = checked_view(camera, settings, shifted=self.shifted, where=path)
        picture = to_target_size(image, settings.target_size)
        picture, change = self.size.change(picture, None, self.size.draw_short_side())
        sample = SceneSample(
            image=change.image(picture),  # (h, w, 3)
            original_size=original,
            view=change.view(view),
            file_name=str(path),
            image_id=name,
            knows_camera=found is not None,
        )
        if settings.is_3d and found is not None:
            from_file = self.frustum is not None and self.cameras.is_dataset
            sample.inside = self.frustum if from_file else frustum_mask(sample.view, "cpu")
        return sample


def photo_folder(
    folder: Path,
    *,
    key: str,
    intrinsics: str | None,
    size: SceneSize,
    settings: SceneSettings,
    shifted: bool,
    has_own_cameras: bool,
    frustum: torch.Tensor | None,
) -> PhotoFolder:
    """A folder of pictures, checked as far as headers and cameras tell.

    Args:
        key: the setting that names the folder, for messages.
        intrinsics: `inference.intrinsics`; see `camera_source`.
        has_own_cameras: the data set has a camera for every image, so it has none for pictures.

    Raises:
        DataError: everything that was found.
    """
    names = find_images(folder, key=key)
    check_headers(folder, names)
    cameras = camera_source(intrinsics, folder, names, has_own_cameras=has_own_cameras)
    if cameras.matrices or cameras.shared:
        problems = Problems(_KEY)
        for name in names:
            try:
                camera = cameras.camera(name, *image_size(folder / name))
                if camera is not None:
                    checked_view(camera, settings, shifted=shifted, where=folder / name)
            except DataError as error:
                problems.note(error)
        problems.check()
    return PhotoFolder(
        folder=folder,
        names=names,
        cameras=cameras,
        size=size,
        settings=settings,
        shifted=shifted,
        frustum=frustum,
    )


def camera_source(
    intrinsics: str | None, folder: Path, names: Sequence[str], *, has_own_cameras: bool
) -> CameraSource:
    """What `inference.intrinsics` means for pictures.

    ``dataset`` is the camera of 3D-Front, at any size; ``camera_head`` leaves the camera to the network; a
    file is the camera of all pictures; a folder has ``<stem>.npy``, ``.txt`` or ``.json`` for each. Empty
    takes such files from beside the pictures, and leaves the others to the network.

    Args:
        names: of the pictures, relative to `folder`.

    Raises:
        InvalidValueError: ``dataset``, but the data set has no camera of its own.
        MissingFilesError: no such file or folder, or pictures without a matrix.
    """
    if not intrinsics:
        return CameraSource(_matrices(folder, names), None, is_dataset=False)
    if intrinsics == "camera_head":
        return CameraSource({}, None, is_dataset=False)
    if intrinsics == "dataset":
        if has_own_cameras:
            raise InvalidValueError(
                f"{_KEY}: 'dataset' is not possible, every image of Matterport3D has a camera of its own; "
                f"allowed are {', '.join(_ALLOWED[:1] + _ALLOWED[2:])}",
                hint=f"{_KEY}=camera_head",
                key=_KEY,
                value=intrinsics,
            )
        return CameraSource({}, None, is_dataset=True)
    place = Path(intrinsics)
    if place.is_file():
        return CameraSource({}, place, is_dataset=False)
    if not place.is_dir():
        raise MissingFilesError(
            f"{_KEY}: {intrinsics} is no file and no folder; allowed are {', '.join(_ALLOWED)}",
            hint=f"ls {place.parent}",
            key=_KEY,
            value=intrinsics,
            allowed=_ALLOWED,
        )
    found = _matrices(place, names)
    missing = [name for name in names if name not in found]
    if missing:
        raise MissingFilesError(
            f"{_KEY}: {len(missing)} of {len(names)} pictures have no camera matrix in {place}: "
            f"{some(missing)}; a matrix is named <stem>.npy, .txt or .json",
            hint=f"ls {place}",
            key=_KEY,
            value=intrinsics,
        )
    return CameraSource(found, None, is_dataset=False)


def _matrices(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Matrix files by picture: at the same place in the folder, or with the same stem at its top."""
    found = {}
    for name in names:
        inner = Path(name).with_suffix("")
        places = (
            folder / stem.with_name(stem.name + ending)
            for stem in (inner, Path(inner.name))
            for ending in MATRIX_ENDINGS
        )
        path = next((place for place in places if place.is_file()), None)
        if path is not None:
            found[name] = path
    return found
