"""PRQ of one pair of 256 x 256 x 256 volumes on one core, beside the plain way.

A room of about 65 thousand surface voxels with 20 segments: three walls, floor and furniture; the prediction
is the room moved by a voxel, with some segments of another class. The plain way walks through segments with
dense sets, as published evaluations do; it is timed once and has to give the same numbers.
"""

import json
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy import ndimage

from skillbank_models.data.batch import Truth
from skillbank_models.metrics.reconstruction_quality import ReconstructionQuality
from skillbank_models.nvpanoptix3d.batch import SceneTruth, VolumeTruth
from skillbank_models.nvpanoptix3d.classes import load_classes
from skillbank_models.nvpanoptix3d.outputs import Scene, Segment

SIDE, BOXES, ROUNDS, ALLOWED_S = 256, 16, 9, 1.0
THINGS = 9


def room(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """Segments (G, G, G) int32, distances float32 and classes by id."""
    segments = np.zeros((SIDE, SIDE, SIDE), np.int32)
    low, high = (58, 100, 60), (190, 195, 190)
    labels = {BOXES + 1: 10, BOXES + 2: 10, BOXES + 3: 10, BOXES + 4: 11}
    segments[low[0], low[1] : high[1], low[2] : high[2]] = BOXES + 1
    segments[high[0], low[1] : high[1], low[2] : high[2]] = BOXES + 2
    segments[low[0] : high[0], low[1] : high[1], high[2]] = BOXES + 3
    segments[low[0] : high[0], high[1], low[2] : high[2]] = BOXES + 4
    for number in range(1, BOXES + 1):
        size = rng.integers(9, 21, 3)
        start = [int(rng.integers(a + 2, b - s - 1)) for a, b, s in zip(low, high, size, strict=True)]
        start[1] = high[1] - int(size[1])
        box = tuple(slice(a, a + int(s)) for a, s in zip(start, size, strict=True))
        inner = tuple(slice(a + 1, a + int(s) - 1) for a, s in zip(start, size, strict=True))
        segments[box] = number
        segments[inner] = 0
        labels[number] = int(rng.integers(1, THINGS + 1))
    distance = ndimage.distance_transform_edt(segments == 0).clip(max=12).astype(np.float32)
    return segments, distance, dict(sorted(labels.items()))


def plain(truth: VolumeTruth, scene: Scene, inside: np.ndarray, classes: int) -> np.ndarray:
    """Sum of overlaps by class, by dense sets."""

    def dense(segment_map: np.ndarray, distance: np.ndarray, number: int) -> np.ndarray:
        own = (segment_map == number) & (np.abs(distance) < 1.0)
        for axis in range(3):
            ahead, behind = np.moveaxis(own.copy(), axis, 0), np.moveaxis(own.copy(), axis, 0)
            np.moveaxis(own, axis, 0)[1:] |= ahead[:-1]
            np.moveaxis(own, axis, 0)[:-1] |= behind[1:]
        return own & inside

    ours = [dense(scene.panoptic_volume, scene.geometry, segment.id) for segment in scene.volume_segments]
    free, out = set(range(len(ours))), np.zeros(classes)
    for number, label in truth.labels.items():
        theirs = dense(truth.segment_map, truth.distance, number)
        for place in sorted(free):
            if scene.volume_segments[place].label != label:
                continue
            overlap = (theirs & ours[place]).sum() / max((theirs | ours[place]).sum(), 1)
            if overlap > 0.25:
                free.remove(place)
                out[label] += overlap
                break
    return out


def main() -> None:
    """Time both."""
    rng = np.random.default_rng(0)
    segments, distance, labels = room(rng)
    voxels = int((segments > 0).sum())
    truth = VolumeTruth(segments, labels, distance)
    guessed = [label if rng.random() < 0.8 else int(rng.integers(1, 12)) for label in labels.values()]
    scene = Scene(
        segment_map=np.zeros((1, 1), np.int32), segments=[], depth=np.zeros((1, 1), np.float32),
        intrinsics=np.eye(3), geometry=np.roll(distance, 1, 0), semantic_volume=None,
        panoptic_volume=np.roll(segments, 1, 0),
        volume_segments=[
            Segment(number, place, label, label <= THINGS, 1.0)
            for place, (number, label) in enumerate(zip(labels, guessed, strict=True))
        ],
    )  # fmt: skip
    inside = np.zeros((SIDE, SIDE, SIDE), bool)
    inside[13:242, 41:213, 35:221] = True
    categories = load_classes(None, num_classes=13, num_things=THINGS, contiguous=True, ignore_label=255)
    things = [1 <= index <= THINGS for index in range(13)]
    times = []
    for _ in range(ROUNDS):
        measure = ReconstructionQuality(
            categories=categories, is_thing=things, iso_truth=1.0, iso_prediction=1.0, downsample=1
        )
        start = time.perf_counter()
        measure.update(scene, SceneTruth(Truth(None, None, []), scene.depth, truth), inside, image_id=0)
        times.append(time.perf_counter() - start)
    found = measure.reduce_and_compute()
    start = time.perf_counter()
    expected = plain(truth, scene, inside, 13)
    reference = time.perf_counter() - start
    if not np.allclose(measure._total.overlap, expected, rtol=0, atol=1e-9):
        raise SystemExit("the two ways differ")
    median = statistics.median(times)
    print(
        json.dumps(
            {
                "name": f"PRQ of a pair of {SIDE}^3 volumes, {voxels} surface voxels, "
                f"{len(labels)} segments, one core (PRQ {found['PRQ']:.1f})",
                "command": "ReconstructionQuality.update",
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
