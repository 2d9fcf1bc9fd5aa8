"""Panoptic quality of 200 pairs of 640 x 480 maps with 40 segments each, one thread, beside the plain way.

The plain way counts pairs of ids with `numpy.unique` and walks through them in Python, as published
evaluations do, but stops at the matches; it is timed on fewer pairs, in turn with ours, and scaled.
"""

import json
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from skillbank_models.data.batch import SegmentTruth
from skillbank_models.metrics.segment_counts import PanopticCounts, count_segments
from skillbank_models.ops.image_result import PredictedSegment

PAIRS, SEGMENTS, HEIGHT, WIDTH, CLASSES = 200, 40, 480, 640, 133
PLAIN_PAIRS, ROUNDS = 10, 5
ALLOWED_S = 1.0


def cells(rng: np.random.Generator) -> np.ndarray:
    """(H, W) int32, areas around 40 points with rough edges, ids up to 2**24, and one void area."""
    points = rng.uniform(0, 1, (SEGMENTS + 1, 2)) * (HEIGHT, WIDTH)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    rows = rows + rng.normal(0, 1.5, rows.shape)
    distance = [(rows - y) ** 2 + (columns - x) ** 2 for y, x in points]
    owner = np.argmin(distance, axis=0)
    ids = np.concatenate([[0], rng.choice(np.arange(1, 1 << 24), SEGMENTS, replace=False)])
    return ids[owner].astype(np.int32)


def pair(rng: np.random.Generator) -> tuple:
    """Maps and segments of both sides; the prediction is the annotation moved a little."""
    truth_map = cells(rng)
    predicted_map = np.roll(truth_map, (3, 5), (0, 1))
    ids = np.unique(truth_map)[1:]
    labels = rng.integers(0, CLASSES, ids.size)
    guessed = np.where(rng.random(ids.size) < 0.8, labels, rng.integers(0, CLASSES, ids.size))
    crowd = rng.random(ids.size) < 0.05
    truth = [SegmentTruth(int(i), int(c), bool(w), 0) for i, c, w in zip(ids, labels, crowd, strict=True)]
    predicted = [PredictedSegment(int(i), int(c), True, 1.0, 0) for i, c in zip(ids, guessed, strict=True)]
    return truth_map, truth, predicted_map, predicted


def plain(pairs: list[tuple]) -> float:
    """Sum of overlaps of matched pairs, by `numpy.unique` and loops."""
    total = 0.0
    for truth_map, truth, predicted_map, predicted in pairs:
        keys, counts = np.unique(truth_map.astype(np.uint64) << 32 | predicted_map.astype(np.uint64),
                                 return_counts=True)  # fmt: skip
        shared = {(int(k) >> 32, int(k) & 0xFFFFFFFF): int(n) for k, n in zip(keys, counts, strict=True)}
        area = dict(zip(*(a.tolist() for a in np.unique(predicted_map, return_counts=True)), strict=True))
        true_area = dict(zip(*(a.tolist() for a in np.unique(truth_map, return_counts=True)), strict=True))
        theirs, ours = {s.id: s for s in truth}, {s.id: s for s in predicted}
        for (first, second), count in shared.items():
            if first not in theirs or second not in ours or theirs[first].is_crowd:
                continue
            if theirs[first].label != ours[second].label:
                continue
            union = area[second] + true_area[first] - count - shared.get((0, second), 0)
            total += count / union if count / union > 0.5 else 0.0
    return total


def ours(pairs: list[tuple]) -> float:
    """The same sum by the library."""
    counts = PanopticCounts.zeros(CLASSES)
    for truth_map, truth, predicted_map, predicted in pairs:
        counts.add(
            count_segments(truth_map, truth, predicted_map, predicted, num_classes=CLASSES, where="bench")
        )
    return float(counts.overlap.sum())


def main() -> None:
    """Time both in turn."""
    rng = np.random.default_rng(0)
    pairs = [pair(rng) for _ in range(PAIRS)]
    if abs(ours(pairs[:PLAIN_PAIRS]) - plain(pairs[:PLAIN_PAIRS])) > 1e-9:
        raise SystemExit("the two ways differ")
    quick, slow = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        ours(pairs)
        quick.append(time.perf_counter() - start)
        start = time.perf_counter()
        plain(pairs[:PLAIN_PAIRS])
        slow.append((time.perf_counter() - start) * PAIRS / PLAIN_PAIRS)
    median, reference = statistics.median(quick), statistics.median(slow)
    print(
        json.dumps(
            {
                "name": f"PQ of {PAIRS} pairs of {WIDTH} x {HEIGHT} with {SEGMENTS} segments, one thread",
                "command": "count_segments",
                "median_s": median,
                "reference_s": reference,
                "ratio": median / reference,
                "allowed": f"{ALLOWED_S:.0f} s",
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
