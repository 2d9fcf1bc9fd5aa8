"""From maps and volumes to targets and truths: order, sizes, ids."""

import numpy as np
import pytest

from skillbank_models.data.batch import IGNORE
from skillbank_models.nvpanoptix3d.scene_targets import (
    find_segments,
    image_truth,
    owner_volume,
    volume_truth,
)
from skillbank_models.nvpanoptix3d.volumes import VolumeLabels

RULES = {"num_classes": 13, "num_things": 9}


def maps(*rows: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Runs of (class, instance, pixels) as maps of one row."""
    semantic = np.concatenate([np.full(count, label, np.int32) for label, _, count in rows])
    instance = np.concatenate([np.full(count, number, np.int32) for _, number, count in rows])
    return semantic[None], instance[None]


def labels(*rows: tuple[int, int]) -> VolumeLabels:
    """Labelled voxels from the second on, in rows of (class, instance)."""
    classes, instances = np.array(rows).T
    return VolumeLabels(
        np.arange(1, len(rows) + 1, dtype=np.int32), classes.astype(np.uint8), instances.astype(np.int32)
    )


def test_things_come_by_id_and_stuff_by_class() -> None:
    semantic, instance = maps((11, 50, 3), (3, 9, 5), (10, 51, 2), (10, 52, 2), (1, 4, 6), (0, 0, 2))
    found = find_segments(semantic, instance, **RULES, min_pixels=4)
    assert found.labels.tolist() == [1, 3, 10, 11]
    assert found.ids.tolist() == [4, 9, 0, 0]
    assert found.masks.sum((1, 2)).tolist() == [6, 5, 4, 3]


def test_an_instance_must_have_more_than_the_least_pixels() -> None:
    semantic, instance = maps((3, 1, 4), (3, 2, 5))
    assert find_segments(semantic, instance, **RULES, min_pixels=4).ids.tolist() == [2]


def test_the_class_is_that_of_most_pixels() -> None:
    semantic, instance = maps((3, 7, 2), (5, 7, 3), (0, 8, 3), (4, 8, 2), (10, 9, 3), (2, 9, 1))
    found = find_segments(semantic, instance, **RULES, min_pixels=0)
    assert found.labels.tolist() == [5, 10]  # most of 8 is void, most of 9 is wall
    assert found.masks[0].sum() == 5  # all pixels of the instance, whatever their class


def test_ceiling_is_stuff() -> None:
    semantic, instance = maps((12, 6, 9), (3, 1, 2))
    assert find_segments(semantic, instance, **RULES, min_pixels=0).labels.tolist() == [3, 12]


def test_an_image_without_segments_has_none() -> None:
    found = find_segments(*maps((0, 0, 4)), **RULES, min_pixels=0)
    assert found.masks.shape == (0, 1, 4)
    assert found.labels.dtype == np.int64


def test_voxels_belong_to_the_rows_of_the_image() -> None:
    segments = find_segments(*maps((3, 9, 5), (1, 4, 6), (10, 0, 1)), **RULES, min_pixels=0)
    volume = owner_volume(labels((3, 9), (1, 4), (10, 9), (11, 0), (3, 77), (0, 4)), segments, 2)
    assert volume.dtype == np.int16
    # rows are 4, 9, wall; a wall voxel with an id is the wall's; floor and 77 are no rows of this image
    assert volume.ravel().tolist() == [0, 2, 1, 3, 0, 0, 1, 0]


def test_image_truth_has_every_instance_and_stuff_once() -> None:
    truth = image_truth(
        *maps((0, 3, 2), (3, 5, 4), (3, 6, 1), (10, 1, 2), (10, 2, 2), (4, 0, 1)), num_things=9
    )
    assert truth.class_map[0].tolist() == [IGNORE] * 2 + [3] * 5 + [10] * 4 + [4]
    assert [(item.label, item.area) for item in truth.segments] == [(3, 4), (3, 1), (4, 1), (10, 4)]
    for item in truth.segments:
        here = truth.segment_map == item.id
        assert here.sum() == item.area
        assert set(truth.class_map[here].tolist()) == {item.label}
    assert (truth.segment_map == 0).sum() == 2
    assert truth.segment_map.dtype == np.int32


def test_an_image_without_void_counts_from_one() -> None:
    truth = image_truth(*maps((3, 5, 4), (10, 1, 2)), num_things=9)
    assert [item.id for item in truth.segments] == [1, 2]
    assert truth.segment_map.tolist() == [[1] * 4 + [2] * 2]


def test_volume_truth_numbers_stuff_first_and_visits_things_first() -> None:
    volume = labels((11, 0), (3, 20), (5, 20), (5, 20), (8, 7), (10, 7), (0, 7))
    truth = volume_truth(volume, np.zeros((2, 2, 2), np.float32), **RULES)
    # wall, floor and ceiling are 1, 2, 3; the instances 7 and 20 follow
    assert list(truth.labels.items()) == [(4, 8), (5, 5), (1, 10), (2, 11)]
    assert truth.segment_map.ravel().tolist() == [0, 2, 5, 5, 5, 4, 1, 4]
    assert truth.segment_map.dtype == np.int32


def test_an_instance_of_stuff_and_void_alone_is_no_segment_but_takes_a_number() -> None:
    truth = volume_truth(labels((10, 3), (0, 3), (1, 8)), np.zeros((2, 2, 2), np.float32), **RULES)
    assert truth.labels == {5: 1, 1: 10}
    assert truth.segment_map.ravel().tolist() == [0, 1, 0, 5, 0, 0, 0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_segments_equal_the_rule_written_out(seed: int) -> None:
    draw = np.random.default_rng(seed)
    semantic = draw.integers(0, 13, (12, 15)).astype(np.int32)
    instance = draw.integers(0, 6, (12, 15)).astype(np.int32)
    wanted = []
    for number in range(1, 6):
        mask = instance == number
        values, counts = np.unique(semantic[mask], return_counts=True)
        label = values[counts.argmax()]
        if mask.sum() > 20 and 0 < label <= 9:
            wanted.append((int(label), mask))
    wanted += [(label, semantic == label) for label in (10, 11, 12) if (semantic == label).any()]
    found = find_segments(semantic, instance, **RULES, min_pixels=20)
    assert found.labels.tolist() == [label for label, _ in wanted]
    np.testing.assert_array_equal(found.masks, np.stack([mask for _, mask in wanted]))
