"""Panoptic quality of images in which pixels with a wrong depth do not count as found.

At a limit, predicted pixels whose depth is off by a larger share of the annotated depth become void before
segments are matched; without a limit it is the plain panoptic quality. The depth-aware quality is the average
over three limits.

Source: Qiao et al. 2021 (ViP-DeepLab), section 3.2; published code of NVPanoptix3D. Differs: averages go over
the classes that occur; those over all classes, absent ones as 0, stand in the table.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from skillbank_models.data.batch import VOID
from skillbank_models.data.categories import Categories
from skillbank_models.metrics.class_table import class_table
from skillbank_models.metrics.reduction import gather_on_all, merge_images
from skillbank_models.metrics.segment_counts import CountRows, PanopticCounts, count_segments
from skillbank_models.ops.image_result import PredictedSegment

if TYPE_CHECKING:
    from skillbank_models.nvpanoptix3d.batch import SceneTruth
    from skillbank_models.nvpanoptix3d.outputs import Scene

__all__ = ["LIMITS", "DepthPanoptic", "drop_wrong_depth"]

log = logging.getLogger(__name__)

Key = int | str
Floats = NDArray[np.float64]
PLAIN = -1  # stands for no limit
DEPTH_LIMITS = (0.5, 0.25, 0.1)  # shares of the annotated depth; documentation of NVPanoptix3D
LIMITS = (*DEPTH_LIMITS, PLAIN)
DEPTH_STEP = 256  # depths are cut off to this part of a metre, as published
FAR = 2.0**20  # metres; keeps any answer of an untrained network within integers
AVERAGE = "averages"


class DepthPanoptic:
    """Depth-aware panoptic quality of one pass over a data split, in percent.

    Reports ``<prefix>_dpq_<limit>_epoch``, ``<prefix>_dpq_th_<limit>_epoch`` for things and
    ``<prefix>_dpq_st_<limit>_epoch`` for stuff, at the limits 0.5, 0.25, 0.1 and -1 (none), and with
    ``averages`` for the mean over the first three. Averages go over classes that occur in annotations or
    predictions, the same ones at all limits. Numbers without such a class are left out, and the log says why.

    Every image counts once, however often samplers repeat it, and the numbers do not depend on how images are
    spread over processes.

    Args:
        categories: class index -> category.
        is_thing: for each of the K classes.
        prefix: val or test.
    """

    def __init__(
        self, *, categories: Categories, is_thing: Sequence[bool], prefix: Literal["train", "val", "test"]
    ) -> None:
        self.categories = categories
        self.prefix = prefix
        self._things = np.array(is_thing, dtype=bool)  # (K,)
        used = [index for index in categories.used if index < self._things.size]
        self._used = np.isin(np.arange(self._things.size), used)  # (K,)
        self._told: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._images: dict[Key, list[CountRows]] = {}
        self._totals = [PanopticCounts.zeros(self._things.size) for _ in LIMITS]
        self._count = 0
        self._kpi: dict[str, float] = {}

    def update(
        self,
        scene: Scene,
        truth: SceneTruth,
        frustum: Tensor | NDArray[np.bool_] | None = None,
        *,
        image_id: Key,
    ) -> None:
        """Count one image; an image that was counted is passed over.

        Args:
            scene: prediction; maps of another size are resized to that of the annotation, by nearest pixel.
            truth: annotation; one without a segment map is passed over.
            frustum: not read; volumes are measured elsewhere.
            image_id: scene and image.

        Raises:
            AnnotationError: ids that do not fit.
        """
        theirs = truth.image.segment_map
        if image_id in self._images or theirs is None:
            return
        size = theirs.shape[-2:]
        ours, depth = _nearest(scene.segment_map, size), _nearest(scene.depth, size)
        segments = [
            PredictedSegment(segment.id, segment.label, segment.is_thing, segment.score, 0)
            for segment in scene.segments
        ]
        counted = []
        for limit in LIMITS:
            kept = ours if limit == PLAIN else drop_wrong_depth(ours, depth, truth.depth, limit=limit)
            counts = count_segments(
                theirs,
                truth.image.segments,
                kept,
                segments,
                num_classes=self._things.size,
                where=f"image {image_id}",
            )
            counted.append(counts.packed())
        self._images[image_id] = counted

    def reduce_and_compute(self) -> dict[str, float]:
        """Join all processes, each of which must call this, and give the numbers to each of them."""
        images = list(merge_images(gather_on_all(self._images)).values())
        self._count = len(images)
        self._totals = [
            PanopticCounts.summed((counted[place] for counted in images), self._things.size)
            for place in range(len(LIMITS))
        ]
        self._kpi = {}
        for kind, among in self._groups().items():
            found = self._means(among & self._present)
            if not found:
                self._tell(f"dpq{kind} is left out: no such segment is annotated or predicted")
            named = {f"{self.prefix}_dpq{kind}_{limit}_epoch": value for limit, value in found.items()}
            self._kpi.update(named)
        return dict(self._kpi)

    def per_class(self) -> list[dict[str, Any]]:
        """One row for each category, by class index; after `reduce_and_compute`.

        Keys: class, id, name, thing; in percent, None where the class does not occur, PQ, SQ, RQ without
        limit, DPQ averaged over the limits and DPQ_<limit>; TP, FP, FN without limit.
        """
        plain = self._totals[LIMITS.index(PLAIN)]
        shares = dict(zip(("PQ", "SQ", "RQ"), plain.per_class(), strict=True))
        limited = {f"DPQ_{limit}": self._quality(limit) for limit in DEPTH_LIMITS}
        shares |= {"DPQ": np.mean(list(limited.values()), axis=0), **limited}
        rows = []
        for index in np.flatnonzero(self._used).tolist():
            row: dict[str, Any] = {
                "class": index,
                "id": self.categories.category_id(index),
                "name": self.categories.name(index),
                "thing": bool(self._things[index]),
            }
            known = bool(self._present[index])
            row.update({key: 100 * float(value[index]) if known else None for key, value in shares.items()})
            found = {"TP": plain.tp, "FP": plain.fp, "FN": plain.fn}
            row.update({key: int(value[index]) for key, value in found.items()})
            rows.append(row)
        return rows

    def table(self) -> str:
        """The numbers as text: totals, also over all classes as published, then a row for each class."""
        totals: dict[str, float] = {}
        lines = []
        for limit in (AVERAGE, *LIMITS):
            line = [f"{name}{kind}_{limit}" for name in ("dpq", "published") for kind in self._groups()]
            lines.append(line)
        for kind, among in self._groups().items():
            for name, chosen in (("dpq", among & self._present), ("published", among)):
                means = self._means(chosen) if self._count else {}
                totals.update({f"{name}{kind}_{limit}": value for limit, value in means.items()})
        text = class_table(
            totals,
            self.per_class(),
            images=self._count,
            percent=1.0,
            totals=lines,
            more_shares=("DPQ", *(f"DPQ_{limit}" for limit in DEPTH_LIMITS)),
        )
        return text + "\npublished: mean over all classes, those that do not occur as 0"

    @property
    def _present(self) -> NDArray[np.bool_]:
        """(K,) classes that occur; without limit, for a limit takes predictions away."""
        return self._totals[LIMITS.index(PLAIN)].present & self._used

    def _groups(self) -> dict[str, NDArray[np.bool_]]:
        """(K,) classes by the word for them."""
        return {"": self._used, "_th": self._used & self._things, "_st": self._used & ~self._things}

    def _quality(self, limit: float) -> Floats:
        """PQ of each class at a limit, (K,), 0 to 1."""
        return self._totals[LIMITS.index(limit)].per_class()[0]

    def _means(self, among: NDArray[np.bool_]) -> dict[float | str, float]:
        """Mean PQ over classes by limit, and over the limits, in percent; nothing without a class."""
        if not among.any():
            return {}
        found: dict[float | str, float] = {
            limit: 100 * float(self._quality(limit)[among].mean()) for limit in LIMITS
        }
        found[AVERAGE] = float(np.mean([found[limit] for limit in DEPTH_LIMITS]))
        return found

    def _tell(self, reason: str) -> None:
        """Say once in a run, not after every epoch, why a number is missing."""
        if reason not in self._told:
            self._told.add(reason)
            log.warning("%s", reason)


def drop_wrong_depth(
    segment_map: NDArray[np.int32],
    depth: NDArray[np.float32],
    truth: NDArray[np.float32],
    *,
    limit: float,
) -> NDArray[np.int32]:
    """Make predicted pixels void whose depth is wrong; pixels without an annotated depth stay.

    Args:
        segment_map: (H0, W0) predicted segments.
        depth: (H0, W0) predicted metres.
        truth: (H0, W0) metres, 0 where unknown.
        limit: largest error, as a share of the annotated depth.

    Returns:
        (H0, W0), a copy.
    """
    wanted = (truth * DEPTH_STEP).astype(np.int32)
    given = np.nan_to_num(depth).clip(0, FAR)
    error = np.abs((given * DEPTH_STEP).astype(np.int32) - wanted)
    return np.where((wanted > 0) & (error > limit * wanted), VOID, segment_map).astype(np.int32)


def _nearest(values: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """A map (h, w) at another size, by the pixel that covers each."""
    if values.shape == size:
        return values
    rows, columns = (
        np.arange(new) * old // new for new, old in zip(size, values.shape, strict=True)
    )  # (H0,), (W0,)
    out: NDArray[Any] = values[rows[:, None], columns]  # (H0, W0)
    return out
