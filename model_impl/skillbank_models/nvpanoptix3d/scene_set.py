"""Data sets of room images, annotated or not.

Letters: `M` segments, `H0 W0` image as stored, `h w` image as it is used, `D` depth bins, `P p` plane of the
3D stage, `G` side of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from skillbank.errors import DataError
from skillbank_models.data.images import read_image
from skillbank_models.nvpanoptix3d.batch import SceneTruth, VolumeTarget
from skillbank_models.nvpanoptix3d.camera import Camera, Grid, View
from skillbank_models.nvpanoptix3d.frustum import check_camera, frustum_mask, kept_voxels
from skillbank_models.nvpanoptix3d.planes import plane_target
from skillbank_models.nvpanoptix3d.scene_augment import Change, Pixels, nearest, to_target_size
from skillbank_models.nvpanoptix3d.scene_files import (
    Layout,
    RoomGeometry,
    ScenePixels,
    SceneRecord,
    check_size,
)
from skillbank_models.nvpanoptix3d.scene_targets import (
    FoundSegments,
    find_segments,
    image_truth,
    owner_volume,
    volume_truth,
)
from skillbank_models.nvpanoptix3d.views import view_of
from skillbank_models.nvpanoptix3d.volume_copies import VolumeCopies
from skillbank_models.nvpanoptix3d.volumes import Room

__all__ = ["Resizing", "SceneSample", "SceneSet", "SceneSettings", "checked_view"]


class Resizing(Protocol):
    """Training augmentation, or the fixed size outside training."""

    def draw_short_side(self) -> int:
        """The short side of the images of a batch."""

    def change(self, image: Pixels, pixels: ScenePixels | None, short: int) -> tuple[Pixels, Change]:
        """The picture, perhaps in new colours, and how it moves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneSettings:
    """What all images of a run share.

    Attributes:
        rule: where depth lands in the grid.
        target_size: (width, height) of the picture before it is resized further.
        plane: (height, width) of the image plane of the 3D stage.
        bins: depth bins of the plane target; None = there is none.
        occupied_below: voxels nearer to a surface than this are occupied in it.
        clip: end of the distance field, voxels.
        num_classes: void included.
        num_things: classes 1 to this are things.
        min_pixels: instances of so many pixels or fewer teach nothing.
        is_3d: read volumes and make targets of them.
    """

    grid: Grid
    rule: Literal["measured", "published"]
    target_size: tuple[int, int]
    plane: tuple[int, int]
    bins: int | None
    occupied_below: float
    clip: float
    num_classes: int
    num_things: int
    min_pixels: int
    is_3d: bool

    @property
    def needs_volumes(self) -> bool:
        """Whether the grid is used at all."""
        return self.is_3d or self.bins is not None

    def check_camera(self, camera: Camera, where: Path | str) -> None:
        """Refuse a camera that sees more than the grid holds, if the grid is used.

        Args:
            where: the image, for messages.

        Raises:
            DataError: says which extent is too large and what would fit.
        """
        if not self.needs_volumes:
            return
        try:
            check_camera(camera, self.grid)
        except DataError as error:
            raise type(error)(
                f"{where}: {error.message}", hint=error.hint, key=error.key, value=error.value
            ) from error


class PlaneSample(NamedTuple):
    """Target of the occupancy head: (D, P, p) bool, and the pixels (P, p) bool that count."""

    bins: torch.Tensor
    valid: NDArray[np.bool_]


@dataclass(slots=True)
class SceneSample:
    """One image on its way into a batch; parts that are not asked for are None.

    Attributes:
        image: (h, w, 3) uint8, RGB.
        original_size: (H0, W0).
        view: of `image`.
        knows_camera: whether the camera of `view` is that of the image, and no stand-in.
        segments: (M, h, w).
        depth: (h, w) float32 metres, 0 = unknown.
        room: (P, p) bool; None where all pixels count.
        inside: (G, G, G) bool, the frustum.
    """

    image: Pixels
    original_size: tuple[int, int]
    view: View
    file_name: str
    image_id: str
    knows_camera: bool = True
    weight: float = 1.0
    segments: FoundSegments | None = None
    depth: NDArray[np.float32] | None = None
    room: NDArray[np.bool_] | None = None
    plane: PlaneSample | None = None
    inside: torch.Tensor | None = None
    volume: VolumeTarget | None = None
    truth: SceneTruth | None = None


class SceneSet(Dataset[SceneSample]):
    """Annotated room images.

    Args:
        frustum: (G, G, G) mask of all images; None = each has its own, else it is computed from the camera.
        copies: where small copies of the volumes are kept.
        with_truth: keep the annotations for measures; only with a resizing that changes nothing at random.
    """

    def __init__(
        self,
        *,
        records: Sequence[SceneRecord],
        layout: Layout,
        settings: SceneSettings,
        resizing: Resizing,
        frustum: NDArray[np.bool_] | None,
        copies: VolumeCopies | None,
        with_truth: bool,
    ) -> None:
        self.records = records
        self.layout = layout
        self.settings = settings
        self.resizing = resizing
        self.frustum = frustum
        self.copies = copies
        self.with_truth = with_truth

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> SceneSample:
        """The sample at a place.

        Raises:
            DataError: a file of the image cannot be used; the message names it.
        """
        return self._sample(index, self.resizing.draw_short_side())

    def __getitems__(self, places: Sequence[int]) -> list[SceneSample]:
        """The samples of a batch, which have one short side.

        Raises:
            DataError: a file cannot be used.
        """
        short = self.resizing.draw_short_side()
        return [self._sample(place, short) for place in places]

    def _sample(self, place: int, short: int) -> SceneSample:
        record, settings = self.records[place], self.settings
        files = self.layout.files(record)
        image = read_image(files.image)  # (H0, W0, 3)
        check_size(files.image, image.shape, record)
        size = (record.height, record.width)
        stored = self.layout.pixels(files, size)
        camera = self.layout.camera_of(record, files)
        view = checked_view(camera, settings, shifted=self.layout.shifted, where=files.image)
        picture, change = self.resizing.change(to_target_size(image, settings.target_size), stored, short)
        pixels = change.pixels(stored)
        sample = SceneSample(
            image=change.image(picture),
            original_size=size,
            view=change.view(view),
            file_name=str(files.image),
            image_id=record.name,
            weight=record.weight,
            segments=find_segments(
                pixels.semantic,
                pixels.instance,
                num_classes=settings.num_classes,
                num_things=settings.num_things,
                min_pixels=settings.min_pixels,
            ),
            depth=pixels.depth if pixels.room is None else np.where(pixels.room, pixels.depth, np.float32(0)),
            room=None if pixels.room is None else nearest(pixels.room, settings.plane),
        )
        if self.with_truth:
            truth = image_truth(stored.semantic, stored.instance, num_things=settings.num_things)
            sample.truth = SceneTruth(image=truth, depth=stored.depth, volume=None)
        if settings.needs_volumes:
            self._add_volumes(sample, Room(files, self.layout, settings.grid.side, self.copies), change)
        return sample

    def _add_volumes(self, sample: SceneSample, room: Room, change: Change) -> None:
        settings = self.settings
        geometry = room.geometry()
        distance = np.minimum(geometry.distance, np.float32(settings.clip))  # (G, G, G)
        moved = torch.from_numpy(change.volume(distance))  # (G, G, G)
        inside = self._inside(geometry, sample.view, change)
        if settings.bins is not None:
            sample.plane = self._plane(sample, moved < settings.occupied_below, inside)
        if not settings.is_3d:
            return
        assert sample.segments is not None
        labels = room.labels()
        sample.inside = inside
        owner = owner_volume(labels, sample.segments, settings.grid.side)  # (G, G, G)
        sample.volume = VolumeTarget(
            distance=moved,
            weighting=torch.from_numpy(change.volume(room.weighting())),
            owner=torch.from_numpy(change.volume(owner)),
        )
        if sample.truth is not None:
            sample.truth.volume = volume_truth(
                labels, distance, num_classes=settings.num_classes, num_things=settings.num_things
            )

    def _inside(self, geometry: RoomGeometry, view: View, change: Change) -> torch.Tensor:
        """The frustum of the changed image, (G, G, G) bool."""
        stored = geometry.inside if geometry.inside is not None else self.frustum
        if stored is None:
            return frustum_mask(view, "cpu")
        inside = torch.from_numpy(change.volume(stored))
        return inside & frustum_mask(view, "cpu") if change.is_cropped else inside

    def _plane(self, sample: SceneSample, occupied: torch.Tensor, inside: torch.Tensor) -> PlaneSample:
        settings = self.settings
        assert settings.bins is not None
        assert sample.depth is not None
        bins = plane_target(
            occupied,
            kept_voxels(sample.view, settings.plane, "cpu"),
            inside=inside,
            bins=settings.bins,
            far=settings.grid.far,
            plane=settings.plane,
        )
        return PlaneSample(bins, nearest(sample.depth, settings.plane) > 0)  # (D, P, p), (P, p)


def checked_view(camera: Camera, settings: SceneSettings, *, shifted: bool, where: Path) -> View:
    """The view of an image as stored.

    Args:
        where: the image, for messages.

    Raises:
        DataError: the camera sees more than the grid holds, and the grid is used.
    """
    settings.check_camera(camera, where)
    return view_of(camera, settings.grid, shifted=shifted, rule=settings.rule)
