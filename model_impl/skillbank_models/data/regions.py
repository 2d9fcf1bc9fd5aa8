"""Annotated regions of one image while it is flipped, resized and cropped.

Regions that cannot overlap stay one map of small numbers, whatever their count; instances, which may overlap,
keep a full mask each. Resizing takes the nearest source pixel and computes only the part that is cropped out.

Letters: `S` regions of an image, `M` targets, `h w` image at its present size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["MapRegions", "MaskRegions", "Regions", "Window", "nearest_places"]

Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Window:
    """A crop of an image that was resized.

    Attributes:
        full: (height, width) of the whole image after resizing.
        top: first row of the crop in it; `left` likewise.
        size: (height, width) of the crop.
    """

    full: tuple[int, int]
    top: int
    left: int
    size: tuple[int, int]

    def source_box(self, source: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the crop in the image before resizing."""
        y, x = source[0] / self.full[0], source[1] / self.full[1]
        bottom, right = self.top + self.size[0], self.left + self.size[1]
        return self.left * x, self.top * y, right * x, bottom * y


class Regions(Protocol):
    """What augmentation and targets ask of either kind.

    Attributes:
        ids: annotation ids.
        labels: (S,) class indices.
        is_crowd: (S,) bool.
    """

    ids: Sequence[int]
    labels: Labels
    is_crowd: NDArray[np.bool_]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""

    def flipped(self) -> Self:
        """Mirrored left to right."""

    def resized(self, window: Window) -> Self:
        """Resized, then cropped."""

    def class_areas(self, window: Window) -> NDArray[np.int64]:
        """Pixels of each class index that occurs, crowd included, counted before resizing."""

    def masks(self, groups: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
        """Masks of the unions of regions, (M, h, w)."""

    def painted(self, values: NDArray[Any], nothing: int) -> NDArray[Any]:
        """A map with one value for each region, (h, w); smaller regions over larger ones."""


@dataclass(slots=True)
class MapRegions:
    """Regions of which no two share a pixel.

    Attributes:
        numbers: (h, w), region number + 1, 0 where there is none.
    """

    numbers: NDArray[np.uint16]
    ids: Sequence[int]
    labels: Labels
    is_crowd: NDArray[np.bool_]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.numbers.shape[0], self.numbers.shape[1]

    def flipped(self) -> MapRegions:
        """Mirrored left to right."""
        return self._with(self.numbers[:, ::-1])

    def resized(self, window: Window) -> MapRegions:
        """Resized, then cropped."""
        rows, columns = nearest_places(self.size, window)
        return self._with(self.numbers.take(rows, axis=0).take(columns, axis=1))  # (h, w)

    def class_areas(self, window: Window) -> NDArray[np.int64]:
        """Pixels of each class index that occurs, crowd included, counted before resizing."""
        part = self.numbers[_slices(self.size, window)]
        areas = np.bincount(part.ravel(), minlength=len(self.labels) + 1)[1:]  # (S,)
        return _by_class(self.labels, areas)

    def areas(self) -> NDArray[np.int64]:
        """Pixels of each region, (S,)."""
        return np.bincount(self.numbers.ravel(), minlength=len(self.labels) + 1)[1:]

    def masks(self, groups: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
        """Masks of the unions of regions, (M, h, w)."""
        target_of = np.zeros(len(self.labels) + 1, np.uint16)
        for number, group in enumerate(groups):
            target_of[[region + 1 for region in group]] = number + 1
        targets = target_of[self.numbers]  # (h, w)
        wanted = np.arange(1, len(groups) + 1, dtype=np.uint16)
        found: NDArray[np.bool_] = targets[None] == wanted[:, None, None]  # (M, h, w)
        return found

    def painted(self, values: NDArray[Any], nothing: int) -> NDArray[Any]:
        """A map with one value for each region, (h, w)."""
        table = np.concatenate([np.asarray([nothing], values.dtype), values])
        return table[self.numbers]

    def _with(self, numbers: NDArray[np.uint16]) -> MapRegions:
        return MapRegions(numbers, self.ids, self.labels, self.is_crowd)


@dataclass(slots=True)
class MaskRegions:
    """Regions that may overlap.

    Attributes:
        planes: (S, h, w), 0 or 1.
        annotated_areas: S areas in pixels, None for those the annotations do not tell; empty after resizing.
    """

    planes: NDArray[np.uint8]
    ids: Sequence[int]
    labels: Labels
    is_crowd: NDArray[np.bool_]
    annotated_areas: Sequence[float | None] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.planes.shape[1], self.planes.shape[2]

    def flipped(self) -> MaskRegions:
        """Mirrored left to right."""
        return self._with(self.planes[:, :, ::-1], self.annotated_areas)

    def resized(self, window: Window) -> MaskRegions:
        """Resized, then cropped."""
        rows, columns = nearest_places(self.size, window)
        return self._with(self.planes.take(rows, axis=1).take(columns, axis=2), ())  # (S, h, w)

    def class_areas(self, window: Window) -> NDArray[np.int64]:
        """Pixels of each class index that occurs, crowd included, counted before resizing."""
        rows, columns = _slices(self.size, window)
        return _by_class(self.labels, np.count_nonzero(self.planes[:, rows, columns], axis=(1, 2)))

    def masks(self, groups: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
        """Masks of the unions of regions, (M, h, w)."""
        found = np.zeros((len(groups), *self.size), np.bool_)  # (M, h, w)
        for number, group in enumerate(groups):
            for region in group:
                found[number] |= self.planes[region].view(np.bool_)
        return found

    def painted(self, values: NDArray[Any], nothing: int) -> NDArray[Any]:
        """A map with one value for each region, smaller ones over larger ones, (h, w)."""
        out = np.full(self.size, nothing, values.dtype)  # (h, w)
        areas = np.count_nonzero(self.planes, axis=(1, 2))  # (S,)
        # crowds at the bottom: they are drawn around the objects that are told apart
        for region in sorted(range(len(values)), key=lambda place: (not self.is_crowd[place], -areas[place])):
            out[self.planes[region].view(np.bool_)] = values[region]
        return out

    def _with(self, planes: NDArray[np.uint8], areas: Sequence[float | None]) -> MaskRegions:
        return MaskRegions(planes, self.ids, self.labels, self.is_crowd, areas)


def nearest_places(source: tuple[int, int], window: Window) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Source rows and columns whose pixel centres are nearest to those of the crop."""
    rows = np.arange(window.top, window.top + window.size[0]) + 0.5
    columns = np.arange(window.left, window.left + window.size[1]) + 0.5
    # the factor first, as Pillow and OpenCV do, so that ties fall to the same side
    y, x = source[0] / window.full[0], source[1] / window.full[1]
    return (rows * y).astype(np.intp), (columns * x).astype(np.intp)


def _slices(source: tuple[int, int], window: Window) -> tuple[slice, slice]:
    """The crop in source pixels, at least one of them on each side."""
    left, top, right, bottom = window.source_box(source)
    rows = slice(int(top), max(int(bottom), int(top) + 1))
    return rows, slice(int(left), max(int(right), int(left) + 1))


def _by_class(labels: Labels, areas: NDArray[Any]) -> NDArray[np.int64]:
    if not len(labels):
        return np.zeros(0, np.int64)
    totals = np.zeros(int(labels.max()) + 1, np.int64)
    np.add.at(totals, labels, areas)
    return totals[totals > 0]
