"""Panoptic reconstruction quality of rooms: which surfaces were found, and how well they lie.

A segment is the set of voxels near its surface, one voxel thicker, inside the frustum. Annotated segments, in
their order, take the first prediction of their class that no other has and that overlaps by more than a
quarter. Over all images, for each class: RSQ = mean overlap of matches, RRQ = TP / (TP + FP / 2 + FN / 2),
PRQ = RSQ x RRQ; averaged over the classes that are annotated.

Source: Dahnert et al. 2021 (Panoptic 3D Scene Reconstruction), section 5; published code of Uni-3D. Differs:
voxels grow evenly to all sides.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from skillbank_models.data.categories import Categories
from skillbank_models.metrics.class_table import class_table
from skillbank_models.metrics.reduction import gather_on_all, merge_images
from skillbank_models.metrics.segment_counts import CountRows, PanopticCounts
from skillbank_models.metrics.voxel_sets import overlaps, thick_surfaces

if TYPE_CHECKING:
    from skillbank_models.nvpanoptix3d.batch import SceneTruth, VolumeTruth
    from skillbank_models.nvpanoptix3d.outputs import Scene

__all__ = ["ReconstructionQuality", "match_segments"]

log = logging.getLogger(__name__)

Key = int | str
MATCH = 0.25  # overlap that has to be exceeded
NAMES = ("PRQ", "RSQ", "RRQ")


class ReconstructionQuality:
    """PRQ, RSQ and RRQ of one pass over a data split, in percent: all, ``_things`` and ``_stuff``.

    A segment counts whether or not it has a voxel at the surface: one without is missed, or wrong. Classes
    that are predicted but never annotated are left out of the averages. Numbers without any annotated segment
    are left out, and the log says why.

    Every image counts once, however often samplers repeat it, and the numbers do not depend on how images are
    spread over processes.

    Args:
        categories: class index -> category.
        is_thing: for each of the K classes.
        iso_truth: annotated voxels nearer to a surface than this count, in voxels.
        iso_prediction: likewise of predictions.
        downsample: 2 measures in a grid of half the resolution, 1 does not.
    """

    def __init__(
        self,
        *,
        categories: Categories,
        is_thing: Sequence[bool],
        iso_truth: float,
        iso_prediction: float,
        downsample: int,
    ) -> None:
        self.categories = categories
        self.iso_truth = iso_truth
        self.iso_prediction = iso_prediction
        self.downsample = downsample
        self._things = np.array(is_thing, dtype=bool)  # (K,)
        self._told: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._images: dict[Key, CountRows] = {}
        self._total = PanopticCounts.zeros(self._things.size)
        self._count = 0
        self._kpi: dict[str, float] = {}

    def update(
        self,
        scene: Scene,
        truth: SceneTruth,
        frustum: Tensor | NDArray[np.bool_] | None,
        *,
        image_id: Key,
    ) -> None:
        """Count one image; an image that was counted is passed over.

        Args:
            scene: prediction with volumes.
            truth: annotation; one without a volume is passed over.
            frustum: (G, G, G) bool, voxels that count; None when all do.
            image_id: scene and image.

        Raises:
            ShapeError: volumes differ in size.
        """
        if image_id in self._images or truth.volume is None:
            return
        inside = frustum.cpu().numpy() if isinstance(frustum, Tensor) else frustum
        self._images[image_id] = self._count_image(scene, truth.volume, inside, f"image {image_id}").packed()

    def reduce_and_compute(self) -> dict[str, float]:
        """Join all processes, each of which must call this, and give the numbers to each of them."""
        images = merge_images(gather_on_all(self._images))
        self._count = len(images)
        self._total = PanopticCounts.summed(images.values(), self._things.size)
        self._kpi = {}
        for suffix, among in (("", None), ("_things", self._things), ("_stuff", ~self._things)):
            quality = self._total.quality(self._annotated if among is None else self._annotated & among)
            if quality is None:
                self._tell(f"PRQ{suffix} is left out: no such segment is annotated in any volume")
                continue
            values = (quality.pq, quality.sq, quality.rq)
            self._kpi.update({name + suffix: 100 * value for name, value in zip(NAMES, values, strict=True)})
        return dict(self._kpi)

    def per_class(self) -> list[dict[str, Any]]:
        """One row for each category, by class index; after `reduce_and_compute`.

        Keys: class, id, name, thing, PRQ, RSQ, RRQ in percent, None where the class is not annotated, TP, FP,
        FN.
        """
        shares = np.stack(self._total.per_class())  # (3, K)
        rows = []
        for index in self._used:
            row: dict[str, Any] = {
                "class": index,
                "id": self.categories.category_id(index),
                "name": self.categories.name(index),
                "thing": bool(self._things[index]),
            }
            known = bool(self._annotated[index])
            for name, values in zip(NAMES, shares, strict=True):
                row[name] = 100 * float(values[index]) if known else None
            found = {"TP": self._total.tp, "FP": self._total.fp, "FN": self._total.fn}
            row.update({name: int(values[index]) for name, values in found.items()})
            rows.append(row)
        return rows

    def table(self) -> str:
        """The numbers as text: totals, then a row for each class that is annotated."""
        return class_table(self._kpi, self.per_class(), images=self._count, percent=1.0)

    @property
    def _used(self) -> list[int]:
        return [index for index in self.categories.used if index < self._things.size]

    @property
    def _annotated(self) -> NDArray[np.bool_]:
        """(K,) categories with at least one annotated segment."""
        used = np.zeros(self._things.size, dtype=bool)
        used[self._used] = True
        return used & (self._total.tp + self._total.fn > 0)

    def _count_image(
        self, scene: Scene, truth: VolumeTruth, inside: NDArray[np.bool_] | None, where: str
    ) -> PanopticCounts:
        assert scene.geometry is not None, "a result of stage 2"
        assert scene.panoptic_volume is not None, "a result of stage 2"
        theirs = thick_surfaces(
            truth.segment_map,
            truth.distance,
            list(truth.labels),
            iso=self.iso_truth,
            downsample=self.downsample,
            inside=inside,
            where=f"{where}, annotation",
        )
        ours = thick_surfaces(
            scene.panoptic_volume,
            scene.geometry,
            [segment.id for segment in scene.volume_segments],
            iso=self.iso_prediction,
            downsample=self.downsample,
            inside=inside,
            where=f"{where}, prediction",
        )
        wanted = list(truth.labels.values())
        given = [segment.label for segment in scene.volume_segments]
        return match_segments(overlaps(theirs, ours), wanted, given, classes=self._things.size)

    def _tell(self, reason: str) -> None:
        """Say once in a run, not after every epoch, why a number is missing."""
        if reason not in self._told:
            self._told.add(reason)
            log.warning("%s", reason)


def match_segments(
    overlap: NDArray[np.float64], wanted: Sequence[int], given: Sequence[int], *, classes: int
) -> PanopticCounts:
    """Match in order of the annotation, first come first served.

    Args:
        overlap: (S, S') of each annotated with each predicted segment.
        wanted: class of each annotated segment.
        given: class of each predicted segment.
        classes: K.
    """
    counts = PanopticCounts.zeros(classes)
    fits = (overlap > MATCH) & (np.array(wanted)[:, None] == np.array(given)[None])  # (annotated, predicted)
    is_free = np.ones(len(given), dtype=bool)
    for place, label in enumerate(wanted):
        candidates = np.flatnonzero(fits[place] & is_free)
        if candidates.size:
            is_free[candidates[0]] = False
            counts.tp[label] += 1
            counts.overlap[label] += overlap[place, candidates[0]]
        else:
            counts.fn[label] += 1
    counts.fp += np.bincount(np.array(given, dtype=np.int64)[is_free], minlength=classes)
    return counts
