"""Augmentation of an image together with its regions, and resizing at test time.

Order in training: fixed size, flip, colours, random scale, random crop. Random numbers come from numpy's
global generator, which the run seeds for each sample.

Source: the public recipe of Mask2Former (Cheng et al. 2022, appendix), with the colour jitter of SSD (Liu et
al. 2016). Differs: scale and crop are one step, so that pixels outside the crop are never computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skillbank_models.data.regions import Regions, Window

__all__ = [
    "STRIDE",
    "EvalSize",
    "TrainAugment",
    "color_jitter",
    "padded_side",
    "resize_image",
    "short_edge_size",
]

STRIDE = 32  # sides of a network input are multiples of it

_TRIES = 10
_MOST_OF_ONE_CLASS = 0.6  # of the labelled pixels of a crop
_CROWD_OF_SIZES = 64  # step between the sizes that stand for a list of one

Pixels = NDArray[np.uint8]


class TrainAugment:
    """Random flip, colours, scale and crop.

    Args:
        target_size: (height, width) every image is resized to first; None keeps it.
        min_sizes: lengths of the short side, one of which is drawn. A single one stands for sizes from half
            of it to twice it, 64 pixels apart.
        max_size: most the long side may have then.
        crop_size: (height, width) of the crop; smaller images stay whole.
        flip_prob: probability of mirroring left and right.
        jitter: draw colours anew.
    """

    def __init__(
        self,
        *,
        target_size: tuple[int, int] | None,
        min_sizes: Sequence[int],
        max_size: int,
        crop_size: tuple[int, int],
        flip_prob: float,
        jitter: bool,
    ) -> None:
        self.flip_prob = flip_prob
        self.jitter = jitter
        self.target_size = target_size
        self.max_size = max_size
        self.crop_size = crop_size
        only = min_sizes[0] if len(min_sizes) == 1 else 0
        self.min_sizes = (
            list(range(max(only // 2, 1), 2 * only + 64, _CROWD_OF_SIZES)) if only else list(min_sizes)
        )

    def __call__(self, image: Pixels, regions: Regions) -> tuple[Pixels, Regions]:
        """A new image (h, w, 3) and its regions; h and w are at most the crop's."""
        if self.target_size is not None:
            whole = _whole(self.target_size)
            image, regions = resize_image(image, whole), regions.resized(whole)  # (h, w, 3)
        if np.random.rand() < self.flip_prob:
            image, regions = np.ascontiguousarray(image[:, ::-1]), regions.flipped()
        if self.jitter:
            image = color_jitter(image)
        shortest = int(np.random.choice(self.min_sizes))
        full = short_edge_size((image.shape[0], image.shape[1]), shortest, self.max_size)
        window = self._crop(full, regions)
        return resize_image(image, window), regions.resized(window)  # (h, w, 3)

    def _crop(self, full: tuple[int, int], regions: Regions) -> Window:
        """A random crop in which no class has most of the labelled pixels, if one is found soon."""
        height, width = min(self.crop_size[0], full[0]), min(self.crop_size[1], full[1])
        for _ in range(_TRIES):
            top = int(np.random.randint(full[0] - height + 1))
            left = int(np.random.randint(full[1] - width + 1))
            window = Window(full, top, left, (height, width))
            if (height, width) == full:
                break  # there is no other
            areas = regions.class_areas(window)
            if areas.size > 1 and areas.max() < _MOST_OF_ONE_CLASS * areas.sum():
                break
        return window


class EvalSize:
    """The size an image has at test time.

    Args:
        target_size: (height, width) whatever the image's shape; None keeps its shape.
        min_size: length of the short side otherwise.
        max_size: most the long side may have then.
    """

    def __init__(self, *, target_size: tuple[int, int] | None, min_size: int, max_size: int) -> None:
        self.target_size = target_size
        self.min_size = min_size
        self.max_size = max_size

    def window(self, size: tuple[int, int]) -> Window:
        """The whole image at its new size."""
        return _whole(self.target_size or short_edge_size(size, self.min_size, self.max_size))

    def __call__(self, image: Pixels, regions: Regions) -> tuple[Pixels, Regions]:
        """The image (h, w, 3) and its regions at the new size."""
        window = self.window((image.shape[0], image.shape[1]))
        return resize_image(image, window), regions.resized(window)


def short_edge_size(size: tuple[int, int], shortest: int, longest: int) -> tuple[int, int]:
    """Height and width with a short side of `shortest`, or less where the long side would pass `longest`."""
    scale = min(shortest / min(size), longest / max(size))
    return max(int(size[0] * scale + 0.5), 1), max(int(size[1] * scale + 0.5), 1)


def padded_side(side: int) -> int:
    """The next multiple of the stride."""
    return -(-side // STRIDE) * STRIDE


def resize_image(image: Pixels, window: Window) -> Pixels:
    """Bilinear resizing, antialiased when it shrinks, then cropping; (H, W, 3) -> (h, w, 3)."""
    if window.full == image.shape[:2]:
        rows = slice(window.top, window.top + window.size[0])
        return image[rows, window.left : window.left + window.size[1]]
    size = window.size[1], window.size[0]
    box = window.source_box((image.shape[0], image.shape[1]))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box=box))


def color_jitter(image: Pixels) -> Pixels:
    """Random brightness, contrast, saturation and hue, each with probability one half; (H, W, 3) RGB.

    Source: Liu et al. 2016, "SSD: Single Shot MultiBox Detector", section 3.6 and its reference ranges.
    """
    chance = np.random.rand(5) < 0.5
    amount = np.random.rand(4)
    if chance[0]:
        image = _mapped(image, 1.0, (2 * amount[0] - 1) * 32)
    contrast = 0.5 + amount[1]
    if chance[1] and chance[4]:
        image = _mapped(image, contrast, 0.0)
    if chance[2] or chance[3]:
        image = _recolored(
            image,
            saturation=0.5 + amount[2] if chance[2] else 1.0,
            hue=round((2 * amount[3] - 1) * 18) if chance[3] else 0,
        )
    if chance[1] and not chance[4]:
        image = _mapped(image, contrast, 0.0)
    return image


def _whole(size: tuple[int, int]) -> Window:
    return Window(size, 0, 0, size)


def _table(values: NDArray[Any]) -> Pixels:
    table: Pixels = np.rint(values).clip(0, 255).astype(np.uint8)
    return table


def _mapped(image: Pixels, factor: float, plus: float) -> Pixels:
    """All values times a factor plus a number."""
    return np.asarray(cv2.LUT(image, _table(np.arange(256) * factor + plus)), np.uint8)


def _recolored(image: Pixels, *, saturation: float, hue: int) -> Pixels:
    """Saturation times a factor, hue turned by half degrees (180 are a full turn)."""
    values = np.arange(256)
    tables = np.stack([(values + hue) % 180, values * saturation, values], axis=-1)  # (256, 3)
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), _table(tables)[None])
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)
