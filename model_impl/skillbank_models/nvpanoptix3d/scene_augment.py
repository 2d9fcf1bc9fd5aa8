"""Resizing and random changes of a room image, its labels, its camera, and the room itself.

Whatever moves pixels moves the camera with them: a crop and a new size change the camera, a flip mirrors
camera and volumes. Random numbers come from numpy's global generator, which the run seeds for each batch.

Letters: `H0 W0` image as stored, `h w` image as it is used, `G` side of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skillbank_models.data.augment import color_jitter, resize_image, short_edge_size
from skillbank_models.data.regions import Window, nearest_places
from skillbank_models.nvpanoptix3d.camera import View
from skillbank_models.nvpanoptix3d.scene_files import ScenePixels

__all__ = ["Change", "SceneSize", "SceneTrainAugment", "mirrored", "nearest", "to_target_size"]

Direction = Literal["horizontal", "vertical"]
Pixels = NDArray[np.uint8]
Kind = TypeVar("Kind", bound=np.generic)

_TRIES = 10


class Change(NamedTuple):
    """What happens to an image.

    Attributes:
        window: resizing, then cropping.
        flip: mirrored last.
    """

    window: Window
    flip: Direction | None

    @property
    def is_cropped(self) -> bool:
        """Whether a part of the image is cut away."""
        return self.window.size != self.window.full

    def view(self, view: View) -> View:
        """The view of the changed image; the place of the camera in the grid stays, unless it is mirrored."""
        (height, width), crop = self.window.full, self.window
        camera = view.camera.scaled(width, height)
        if self.is_cropped:
            camera = camera.cropped(crop.left, crop.top, crop.size[1], crop.size[0])
        moved = replace(view, camera=camera)
        return moved.mirrored(self.flip) if self.flip else moved

    def image(self, image: Pixels) -> Pixels:
        """The changed picture, (h, w, 3)."""
        return self._flipped(resize_image(image, self.window))  # (h, w, 3)

    def pixels(self, pixels: ScenePixels) -> ScenePixels:
        """The changed labels, (h, w), each of the nearest pixel; depth stays depth."""
        return ScenePixels(
            semantic=self._map(pixels.semantic),
            instance=self._map(pixels.instance),
            depth=self._map(pixels.depth),
            room=None if pixels.room is None else self._map(pixels.room),
        )

    def volume(self, volume: NDArray[Kind]) -> NDArray[Kind]:
        """The changed room, (G, G, G)."""
        return mirrored(volume, self.flip)

    def _map(self, values: NDArray[Kind]) -> NDArray[Kind]:
        height, width = values.shape
        rows, columns = nearest_places((height, width), self.window)
        return self._flipped(values.take(rows, axis=0).take(columns, axis=1))  # (h, w)

    def _flipped(self, values: NDArray[Kind]) -> NDArray[Kind]:
        if self.flip is None:
            return values
        return np.ascontiguousarray(np.flip(values, 1 if self.flip == "horizontal" else 0))


class SceneSize:
    """The size of an image outside training: short side and limit of the long side."""

    def __init__(self, *, min_size: int, max_size: int) -> None:
        self.min_size = min_size
        self.max_size = max_size

    def draw_short_side(self) -> int:
        """The short side of the images of a batch."""
        return self.min_size

    def change(self, image: Pixels, pixels: ScenePixels | None, short: int) -> tuple[Pixels, Change]:
        """The picture as it is, and how its size changes."""
        full = short_edge_size((image.shape[0], image.shape[1]), short, self.max_size)
        return image, Change(_whole(full), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneTrainAugment:
    """Random size, crop, colours and flip, in this order.

    Attributes:
        min_sizes: lengths of the short side, one of which is drawn for each batch.
        max_size: most the long side may have then.
        crop_size: (height, width); None = no crop. Smaller images stay whole.
        most_of_one_class: largest share of the labelled pixels of a crop that one class may have, if such a
            crop is found soon.
        jitter: draw colours anew.
        channels: "BGR" to draw colours as if red were blue.
        flip: direction; None = never.
        flip_prob: probability of it.

    Source: pipeline of the public NVPanoptix3D documentation. Differs: camera, volumes and depth change with
    the image.
    """

    min_sizes: Sequence[int]
    max_size: int
    crop_size: tuple[int, int] | None
    most_of_one_class: float
    jitter: bool
    channels: Literal["RGB", "BGR"]
    flip: Direction | None
    flip_prob: float

    def draw_short_side(self) -> int:
        """The short side of the images of a batch."""
        return int(np.random.choice(self.min_sizes))

    def change(self, image: Pixels, pixels: ScenePixels | None, short: int) -> tuple[Pixels, Change]:
        """The picture in new colours, and how its size changes."""
        full = short_edge_size((image.shape[0], image.shape[1]), short, self.max_size)
        window = self._crop(full, pixels)
        if self.jitter:
            turn = slice(None, None, -1 if self.channels == "BGR" else 1)
            image = color_jitter(np.ascontiguousarray(image[..., turn]))[..., turn]
        flips = self.flip is not None and np.random.rand() < self.flip_prob
        return np.ascontiguousarray(image), Change(window, self.flip if flips else None)

    def _crop(self, full: tuple[int, int], pixels: ScenePixels | None) -> Window:
        if self.crop_size is None:
            return _whole(full)
        height, width = min(self.crop_size[0], full[0]), min(self.crop_size[1], full[1])
        for _ in range(_TRIES):
            top = int(np.random.randint(full[0] - height + 1))
            left = int(np.random.randint(full[1] - width + 1))
            window = Window(full, top, left, (height, width))
            if self.most_of_one_class >= 1 or (height, width) == full or pixels is None:
                break
            rows, columns = nearest_places((pixels.semantic.shape[0], pixels.semantic.shape[1]), window)
            areas = np.bincount(pixels.semantic[np.ix_(rows, columns)].ravel())[1:]
            if areas.sum() and areas.max() <= self.most_of_one_class * areas.sum():
                break
        return window


def to_target_size(image: Pixels, size: tuple[int, int]) -> Pixels:
    """A picture at `dataset.target_size` (width, height), whatever its shape was; bicubic, (h, w, 3)."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def nearest(values: NDArray[Kind], size: tuple[int, int]) -> NDArray[Kind]:
    """A map at another size (height, width); each pixel is that of the nearest centre."""
    rows, columns = nearest_places((values.shape[0], values.shape[1]), _whole(size))
    return values.take(rows, axis=0).take(columns, axis=1)


def mirrored(volume: NDArray[Kind], direction: Direction | None) -> NDArray[Kind]:
    """A volume mirrored voxel for voxel along x or y, (G, G, G)."""
    if direction is None:
        return volume
    return np.ascontiguousarray(np.flip(volume, 0 if direction == "horizontal" else 1))


def _whole(size: tuple[int, int]) -> Window:
    return Window(size, 0, 0, size)
