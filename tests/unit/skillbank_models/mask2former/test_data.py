"""From a spec of Mask2Former to batches: files, sizes, loaders, classes, and what is refused."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shapes_data import coco_sample, make_shapes, mask2former_spec, split_of
from torch.utils.data import DistributedSampler

from skillbank.errors import AnnotationError, DataError, MissingFilesError, MissingValueError
from skillbank_models.data import loaders
from skillbank_models.data.annotations import PackedRecords
from skillbank_models.data.batch import SegmentationBatch
from skillbank_models.mask2former.data import Mask2FormerData, calibration_loader, categories_of
from skillbank_runners.data import DataOrder, arrange

KINDS = ("coco_panoptic", "coco", "ade")
SIZES = {
    "train_min_size": [64], "train_max_size": 200, "train_crop_size": [64, 80], "test_min_size": 64,
    "test_max_size": 128,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", images=5, empty=1, seed=2)


def dataset(root: Path, kind: str = "coco_panoptic", **more: Any) -> dict[str, Any]:
    return {
        "train": split_of(root, kind, batch_size=2),
        "val": split_of(root, kind, batch_size=2),
        "test": {"img_dir": str(root / "images"), "batch_size": 3},
        "augmentation": SIZES,
        **more,
    }


def fitted(spec: Any, stage: str = "fit") -> Mask2FormerData:
    data = Mask2FormerData(spec)
    data.setup(stage)
    return data


@pytest.mark.parametrize("mode", ["panoptic", "instance", "semantic"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_serves_every_task(kind: str, mode: str, root: Path) -> None:
    data = fitted(mask2former_spec(dataset(root, kind), mode=mode))
    batches = list(data.train_dataloader())
    assert len(batches) == 2  # the fifth image is dropped
    batch = batches[0]
    assert isinstance(batch, SegmentationBatch)
    assert batch.images.shape[-1] % 32 == 0
    assert len(batch.targets) == 2
    assert batch.truths == []
    checked = list(data.val_dataloader())
    assert [len(batch.truths) for batch in checked] == [2, 2, 1]  # here it is not
    assert checked[-1].targets[0].labels.numel() == 0  # it is the one with nothing in it
    batch = checked[0]
    assert batch.original_sizes == [(64, 96)] * 2
    assert batch.sizes == [(64, 96)] * 2
    labels = torch.cat([target.labels for target in batch.targets])
    assert labels.dtype == torch.int64
    assert len(labels) > 2
    assert batch.image_ids == (["images/000001.jpg", "images/000002.jpg"] if kind == "ade" else [1, 2])
    assert all(Path(name).is_file() for name in batch.file_names)


def test_serialized_equals_default(root: Path) -> None:
    def first(storage: str) -> tuple[Any, SegmentationBatch]:
        data = fitted(mask2former_spec(dataset(root, dataset_type=storage)))
        torch.manual_seed(0)
        np.random.seed(0)
        loader = data.train_dataloader()
        return loader.dataset.records, next(iter(loader))

    records, plain = first("default")
    packed, again = first("serialized")
    assert isinstance(packed, PackedRecords)
    assert list(packed) == records
    assert torch.equal(plain.images, again.images)
    for one, two in zip(plain.targets, again.targets, strict=True):
        assert torch.equal(one.masks, two.masks)
        assert torch.equal(one.labels, two.labels)


def test_loader_processes_give_the_same_batches(root: Path) -> None:
    """With the order of a run, for both kinds of storage."""
    seen = []
    for workers, storage in ((0, "default"), (2, "serialized")):
        data = Mask2FormerData(mask2former_spec(dataset(root, workers=workers, dataset_type=storage)))
        arrange(data, DataOrder(seed=3))
        data.setup("fit")
        seen.append(list(data.train_dataloader()))
    assert len(seen[0]) == 2
    for one, two in zip(*seen, strict=True):
        assert one.image_ids == two.image_ids
        assert torch.equal(one.images, two.images)


def test_sizes_of_the_spec(root: Path) -> None:
    given = dataset(root)
    given["train"]["target_size"] = [40, 200]
    given["val"]["target_size"] = [100, 50]
    given["augmentation"] = {**SIZES, "fixed_padding": True, "train_crop_size": [70, 100]}
    data = fitted(mask2former_spec(given))
    assert {tuple(batch.images.shape[2:]) for batch in data.train_dataloader()} == {(96, 128)}
    assert next(iter(data.val_dataloader())).sizes == [(100, 50)] * 2
    data.setup("predict")
    assert next(iter(data.predict_dataloader())).sizes == [(64, 96)] * 3


def test_batch_sizes_of_actions(root: Path) -> None:
    def size(action: str, **block: Any) -> int | None:
        spec = mask2former_spec(dataset(root), action=action, **block)
        data = fitted(spec, "test" if action == "evaluate" else "predict")
        return (data.test_dataloader() if action == "evaluate" else data.predict_dataloader()).batch_size

    weights = {"checkpoint": "model.pth"}
    assert size("evaluate", evaluate=weights) == 2
    assert size("evaluate", evaluate={**weights, "batch_size": 4}) == 4
    assert size("inference", inference=weights) == 3
    assert size("inference", inference={**weights, "batch_size": 1}) == 1


def test_loader_settings(root: Path) -> None:
    given = dataset(root, workers=2)
    given["val"]["num_workers"] = 0
    data = fitted(mask2former_spec(given))
    train, val = data.train_dataloader(), data.val_dataloader()
    assert (train.num_workers, train.persistent_workers, train.drop_last) == (2, True, True)
    assert (val.num_workers, val.persistent_workers, val.drop_last) == (0, False, False)
    assert train.pin_memory == torch.cuda.is_available()


def test_a_set_smaller_than_a_batch_trains(root: Path) -> None:
    given = dataset(root)
    given["train"]["batch_size"] = 8
    (batch,) = fitted(mask2former_spec(given)).train_dataloader()
    assert len(batch.targets) == 5


def test_inference_reads_images_only(root: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    shutil.copy(root / "images/000001.jpg", tmp_path / "deep/one.JPG")
    spec = mask2former_spec(
        {"test": {"root_dir": str(tmp_path)}, "augmentation": SIZES},
        action="inference", inference={"checkpoint": "model.pth"},
    )  # fmt: skip
    (batch,) = fitted(spec, "predict").predict_dataloader()
    assert batch.image_ids == ["deep/one.JPG"]
    assert batch.targets == []
    assert batch.truths == []
    assert len(Mask2FormerData(spec).categories) == 8


def test_paths_are_under_the_root(root: Path) -> None:
    split = {
        "root_dir": str(root), "annot_file": "annotations_panoptic.json", "img_dir": "images",
        "panoptic_dir": "images_panoptic",
    }  # fmt: skip
    spec = mask2former_spec({"type": "coco_panoptic", "train": split, "augmentation": SIZES})
    assert len(list(fitted(spec).train_dataloader())) == 5


def test_without_a_validation_split(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = dataset(root)
    del given["val"]
    with caplog.at_level(logging.WARNING):
        data = fitted(mask2former_spec(given))
    assert data.val_dataloader() == []
    assert "this run has no validation" in caplog.text


def test_nothing_is_read_before_setup(tmp_path: Path) -> None:
    data = Mask2FormerData(mask2former_spec(dataset(tmp_path / "gone")))
    with pytest.raises(
        MissingFilesError,
        match=r"dataset\.train\.panoptic_json: there is no annotation file .*panoptic\.json",
    ):
        data.setup("fit")


def test_settings_that_are_needed_are_all_named() -> None:
    data = Mask2FormerData(mask2former_spec({"type": "coco_panoptic", "train": {"annot_file": "a.json"}}))
    with pytest.raises(MissingValueError) as caught:
        data.setup("fit")
    assert [problem.key for problem in caught.value.problems] == [
        "dataset.train.img_dir", "dataset.train.panoptic_dir",
    ]  # fmt: skip
    with pytest.raises(
        MissingValueError, match=r"dataset\.val\.annot_file is empty; data of type ade needs it"
    ):
        Mask2FormerData(mask2former_spec({})).setup("validate")
    with pytest.raises(MissingValueError, match=r"dataset\.test\.img_dir is empty"):
        Mask2FormerData(mask2former_spec({})).setup("predict")


def test_classes_come_from_the_label_map_first(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps([{"id": 8 - index, "name": f"c{8 - index}"} for index in range(8)]))
    given = dataset(root, label_map=str(path), contiguous_id=True)
    classes = categories_of(mask2former_spec(given))
    assert classes.index_of()[8] == 0
    assert classes.name(7) == "c1"


def test_classes_come_from_annotations_else(root: Path) -> None:
    panoptic = categories_of(mask2former_spec(dataset(root)))
    assert [panoptic.name(index) for index in (0, 7)] == ["ball", "water"]
    assert not panoptic.is_thing(7)
    instances = categories_of(mask2former_spec(dataset(root, "coco"), num_classes=9))
    assert instances.used == [0, 1, 2, 3, 4]
    masks = categories_of(mask2former_spec(dataset(root, "ade", contiguous_id=True)))
    assert masks.index_of() == {number: number - 1 for number in range(1, 9)}
    numbers = categories_of(mask2former_spec(dataset(root, "ade"), num_classes=150))
    assert len(numbers) == 150
    only_val = dataset(root)
    only_val["train"] = split_of(root / "gone", "coco_panoptic")
    assert categories_of(mask2former_spec(only_val)).name(0) == "ball"


def test_classes_that_do_not_fit_the_network(root: Path) -> None:
    with pytest.raises(AnnotationError, match=r"8 categories, but model.sem_seg_head.num_classes is 9"):
        categories_of(mask2former_spec(dataset(root, contiguous_id=True), num_classes=9))
    with pytest.raises(AnnotationError, match=r"above model.sem_seg_head.num_classes 7, the largest is 8"):
        categories_of(mask2former_spec(dataset(root), num_classes=7))


def test_ids_outside_the_label_map_are_refused(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps([{"id": 1, "name": "ball"}]))
    for kind, said in (
        ("coco_panoptic", "has category_id 6, which the classes do not have"),
        ("coco", "which the classes do not have"),
        ("ade", "are no category ids"),
    ):
        with pytest.raises(AnnotationError, match=said):
            fitted(mask2former_spec(dataset(root, kind, label_map=str(path))))


def test_instance_mode_needs_a_thing(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps([{"id": number, "name": "x", "isthing": 0} for number in range(1, 9)]))
    spec = mask2former_spec(dataset(root, label_map=str(path)), mode="instance")
    with pytest.raises(
        AnnotationError, match=r"no category is a thing, so model.mode instance has nothing to find"
    ):
        fitted(spec)


def test_faults_of_the_files_stop_a_run_before_it_begins(root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    (copy / "images/000002.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"000002\.jpg"):
        fitted(mask2former_spec(dataset(copy)))
    with pytest.raises(DataError, match=r"000002\.jpg"):
        fitted(mask2former_spec(dataset(copy)), "predict")


def test_processes_share_batches_or_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`use_distributed_sampler` gives each its own images; else the runner deals out batches."""
    monkeypatch.setattr(loaders, "world_size", lambda: 2)
    seen = []
    for rank in range(2):
        monkeypatch.setattr(loaders, "_rank", lambda rank=rank: rank)
        data = fitted(mask2former_spec(dataset(root), train={"use_distributed_sampler": True}))
        loader = data.train_dataloader()
        assert isinstance(loader.sampler, DistributedSampler)
        assert len(loader) == 1
        loader.sampler.set_epoch(1)
        seen.append(set(loader.sampler))
    assert seen[0] | seen[1] == set(range(5))
    dealt = fitted(mask2former_spec(dataset(root))).train_dataloader()
    assert not isinstance(dealt.sampler, DistributedSampler)
    assert len(dealt) == 2
    few = dataset(root)
    few["train"]["batch_size"] = 4
    assert len(fitted(mask2former_spec(few)).train_dataloader()) == 2  # one for each process


def test_only_tensors_move_to_a_device(root: Path) -> None:
    data = fitted(mask2former_spec(dataset(root)))
    batch = next(iter(data.val_dataloader()))
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert isinstance(moved, SegmentationBatch)
    tensors = [moved.images, *(part for target in moved.targets for part in target)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.targets[0].masks.shape == batch.targets[0].masks.shape
    assert moved.truths is batch.truths


def test_calibration_images(root: Path) -> None:
    given = dataset(root, quant_calibration_dataset={"images_dir": str(root / "images")})
    batches = list(calibration_loader(mask2former_spec(given), batch_size=4))
    assert [len(batch.images) for batch in batches] == [4, 1]
    with pytest.raises(MissingValueError, match=r"quant_calibration_dataset\.images_dir is empty"):
        calibration_loader(mask2former_spec(dataset(root)), batch_size=4)


@pytest.mark.parametrize("contiguous", [True, False])
def test_coco_images(contiguous: bool) -> None:
    sample = coco_sample()
    split = {
        "panoptic_json": str(sample / "panoptic_examples.json"), "img_dir": str(sample / "input_images"),
        "panoptic_dir": str(sample / "panoptic_examples"), "batch_size": 2,
    }  # fmt: skip
    spec = mask2former_spec(
        {"type": "coco_panoptic", "train": split, "val": split, "contiguous_id": contiguous},
        num_classes=133 if contiguous else 200,
    )
    data = fitted(spec)
    assert len(data.categories.used) == 133
    (train,) = data.train_dataloader()
    assert train.images.shape[0] == 2
    (val,) = data.val_dataloader()
    assert val.images.shape == (2, 3, 448, 640)
    assert sorted(val.image_ids) == [142238, 439180]
    for target, truth, size in zip(val.targets, val.truths, val.original_sizes, strict=True):
        names = {data.categories.name(label) for label in target.labels.tolist()}
        assert "person" in names
        assert len(target.labels) == sum(not segment.is_crowd for segment in truth.segments)
        assert truth.segment_map is not None
        assert truth.segment_map.shape == size
