"""Samples and batches: normalisation, padding, targets for each task."""

from pathlib import Path

import numpy as np
import pytest
import torch

from skillbank.errors import DataError
from skillbank_models.data.augment import EvalSize
from skillbank_models.data.categories import Categories
from skillbank_models.data.coco_panoptic import PanopticReader
from skillbank_models.data.segmentation import Collate, ImageFolder, Normalisation, Sample, SegmentationSet

SIZE = EvalSize(target_size=None, min_size=64, max_size=96)
UNIT = Normalisation(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def sample(height: int, width: int, count: int | None) -> Sample:
    rng = np.random.default_rng(height)
    masks = None if count is None else rng.random((count, height, width)) < 0.5
    labels = None if count is None else np.arange(count)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Sample(image, labels, masks, (height * 2, width * 2), f"{height}.png", height, None)


def test_both_units_of_mean_and_deviation_are_the_same() -> None:
    bytes_unit = Normalisation(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    image = sample(8, 8, None).image
    outs = [torch.empty(3, 8, 8), torch.empty(3, 8, 8)]
    UNIT.into(outs[0], image)
    bytes_unit.into(outs[1], image)
    torch.testing.assert_close(outs[0], outs[1], rtol=0, atol=1e-6)
    closed = (torch.from_numpy(image).double() / 255 - torch.tensor([0.485, 0.456, 0.406]).double()) / (
        torch.tensor([0.229, 0.224, 0.225]).double()
    )
    torch.testing.assert_close(outs[0].double(), closed.permute(2, 0, 1), rtol=0, atol=1e-6)


def test_a_batch_is_padded_to_multiples_of_32() -> None:
    batch = Collate(normalisation=UNIT, fixed_size=None)([sample(33, 20, 3), sample(16, 70, 0)])
    assert batch.images.shape == (2, 3, 64, 96)
    assert batch.images.dtype == torch.float32
    assert batch.sizes == [(33, 20), (16, 70)]
    assert batch.original_sizes == [(66, 40), (32, 140)]
    assert batch.file_names == ["33.png", "16.png"]
    assert batch.image_ids == [33, 16]
    assert batch.truths == []
    first, second = batch.targets
    assert first.masks.shape == (3, 64, 96)
    assert first.masks.dtype == torch.bool
    assert first.labels.tolist() == [0, 1, 2]
    assert torch.equal(first.masks[:, :33, :20], torch.from_numpy(sample(33, 20, 3).masks))
    assert second.masks.shape == (0, 64, 96)
    assert second.labels.dtype == torch.int64
    for place, (height, width) in enumerate(batch.sizes):
        assert batch.images[place, :, height:].eq(0).all()
        assert batch.images[place, :, :, width:].eq(0).all()
        assert batch.images[place, :, :height, :width].ne(0).any()
    assert not first.masks[:, 33:].any()
    assert not first.masks[:, :, 20:].any()


def test_a_fixed_size_pads_further() -> None:
    collate = Collate(normalisation=UNIT, fixed_size=(128, 64))
    assert collate([sample(33, 20, 1)]).images.shape == (1, 3, 128, 64)
    assert collate([sample(33, 20, 1)]).targets[0].masks.shape == (1, 128, 64)


def test_images_without_annotations_have_no_targets() -> None:
    batch = Collate(normalisation=UNIT, fixed_size=None)([sample(32, 32, None)])
    assert batch.targets == []
    assert batch.images.shape == (1, 3, 32, 32)


def panoptic_set(shapes: Path, classes: Categories, *, task: str, with_truth: bool) -> SegmentationSet:
    reader = PanopticReader(
        annotations=shapes / "annotations_panoptic.json",
        mask_folder=shapes / "images_panoptic",
        categories=classes,
    )
    return SegmentationSet(
        records=reader.records(), reader=reader, image_folder=shapes / "images", transform=SIZE,
        task=task, categories=classes, with_truth=with_truth,
    )  # fmt: skip


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_targets_of_each_task(task: str, shapes: Path, classes: Categories) -> None:
    found = panoptic_set(shapes, classes, task=task, with_truth=True)
    some_stuff, some_crowd = False, False
    for place in range(len(found)):
        one = found[place]
        assert one.truth is not None
        assert one.labels is not None
        assert one.masks is not None
        assert one.masks.any(axis=(1, 2)).all()
        segments = one.truth.segments
        labels = one.labels.tolist()
        some_stuff |= any(label > 4 for label in labels)
        some_crowd |= any(segment.is_crowd for segment in segments)
        if task == "semantic":
            assert labels == sorted(set(labels))
            assert one.truth.class_map is not None
            assert set(labels) == set(one.truth.class_map.ravel().tolist()) - {-1}
        else:
            assert sorted(labels) == sorted(segment.label for segment in segments if not segment.is_crowd)
        if task == "instance":
            assert one.truth.segment_map is None
            assert all(segment.rle is not None for segment in segments)
        assert one.masks.sum(axis=0).max(initial=0) <= 1
    assert some_stuff == (task != "instance")
    assert some_crowd


def test_an_empty_image_makes_a_batch(shapes: Path, classes: Categories) -> None:
    last = panoptic_set(shapes, classes, task="panoptic", with_truth=True)[7]
    batch = Collate(normalisation=UNIT, fixed_size=None)([last])
    assert batch.targets[0].masks.shape == (0, 64, 96)
    assert batch.truths[0].segments == []


def test_a_damaged_image_is_named_when_it_is_loaded(
    shapes: Path, classes: Categories, tmp_path: Path
) -> None:
    found = panoptic_set(shapes, classes, task="panoptic", with_truth=False)
    found.image_folder = tmp_path
    (tmp_path / "000001.jpg").write_bytes((shapes / "images/000001.jpg").read_bytes()[:1500])
    with pytest.raises(DataError, match=r"000001\.jpg: this image cannot be read"):
        found[0]


def test_folders_give_relative_names(shapes: Path) -> None:
    found = ImageFolder(folder=shapes, names=["images/000001.jpg"], size=SIZE)
    one = found[0]
    assert (one.image_id, one.file_name) == ("images/000001.jpg", str(shapes / "images/000001.jpg"))
    assert one.image.shape == (64, 96, 3)
    assert one.labels is None
