"""Files of inference: read back with the tools of others, over several processes, without collisions."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from skillbank.errors import StorageError
from skillbank_models.data.categories import Categories, Category
from skillbank_models.data.images import read_ids, read_labels
from skillbank_models.data.results import ResultWriter
from skillbank_models.data.run_lengths import runs_of, unpacked
from skillbank_models.metrics.panoptic_quality import evaluate_folders
from skillbank_models.ops.image_result import ImageResult, InstanceResult, PanopticResult, PredictedSegment

SIZE = (20, 30)


def categories(last=40):
    cat, sky = Category(7, "cat", (255, 0, 0), True), Category(9, "sky", (0, 0, 255), False)
    return Categories((cat, None, sky, Category(last, "dog", (0, 200, 0), True)))


def result(seed=0):
    """Sky in the upper half, a cat and a dog, everything else void."""
    rng = np.random.default_rng(seed)
    left = int(rng.integers(2, 12))
    segment_map = np.zeros(SIZE, np.int32)
    segment_map[:10] = 1
    segment_map[5:15, left : left + 8] = 2
    segment_map[12:18, 22:29] = 3
    labels = np.array([-1, 2, 0, 3])
    segments = [
        PredictedSegment(number, int(labels[number]), number > 1, 0.9, int((segment_map == number).sum()))
        for number in (1, 2, 3)
    ]
    masks = torch.from_numpy(np.stack([segment_map == 2, segment_map == 3, segment_map == 2]))
    instances = InstanceResult(
        torch.tensor([0, 3, 3]), torch.tensor([0.9, 0.8, 0.3]), masks, torch.tensor([4, 1, 4])
    )
    panoptic = PanopticResult(torch.from_numpy(segment_map), segments)
    return torch.from_numpy(labels[segment_map].astype(np.int32)), panoptic, instances


def of_mode(mode, seed=0):
    class_map, panoptic, instances = result(seed)
    return ImageResult(
        class_map, panoptic if mode == "panoptic" else None, instances if mode == "instance" else None
    )


def write(folder, mode, names, *, rank=0, world=1, known=None, **more):
    writer = ResultWriter(folder, mode=mode, categories=known or categories(), rank=rank, world=world, **more)
    for seed, name in enumerate(names):
        writer.add(f"somewhere/{name}", name, np.full((*SIZE, 3), 90, np.uint8), of_mode(mode, seed))
    return writer


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_panoptic_files_are_read_by_the_evaluation(tmp_path):
    finished = write(tmp_path, "panoptic", ["b.jpg", "a.jpg"]).finish()
    assert finished == [(tmp_path / "panoptic.json", "predictions")]
    assert files(tmp_path) == [
        "overlays/a.jpg", "overlays/b.jpg", "panoptic.json", "panoptic/a.png", "panoptic/b.png",
    ]  # fmt: skip
    quality = evaluate_folders(*[tmp_path / "panoptic.json", tmp_path / "panoptic"] * 2)
    assert (quality.all.pq, quality.images, sorted(quality.per_class)) == (1.0, 2, [7, 9, 40])
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "b.jpg"]
    row = content["annotations"][0]["segments_info"][2]
    assert row == {
        "id": 3, "category_id": 40, "isthing": 1, "iscrowd": 0, "score": 0.9, "area": 42,
        "bbox": [22, 12, 7, 6],
    }  # fmt: skip
    ids = read_ids(tmp_path / "panoptic" / "b.png")
    assert np.array_equal(ids, result(0)[1].segment_map.numpy())


def test_large_segment_ids_use_all_channels(tmp_path):
    writer = ResultWriter(tmp_path, mode="panoptic", categories=categories(), rank=0, world=1, overlays=False)
    segment_map = torch.zeros(SIZE, dtype=torch.int32)
    segment_map[3:5] = 70_003
    found = PanopticResult(segment_map, [PredictedSegment(70_003, 0, True, 0.5, 60)])
    image = np.zeros((*SIZE, 3), np.uint8)
    writer.add("a.png", "a.png", image, ImageResult(torch.zeros(SIZE, dtype=torch.int32), found))
    writer.finish()
    assert np.array_equal(read_ids(tmp_path / "panoptic" / "a.png"), segment_map.numpy())


def test_instances_load_in_pycocotools(tmp_path, capsys):
    finished = write(tmp_path, "instance", ["000000000139.jpg", "000000000285.jpg"]).finish()
    assert [path.name for path, _ in finished] == ["instances.json", "images.json"]
    truth = COCO()
    truth.dataset = json.loads((tmp_path / "images.json").read_text())
    truth.dataset["annotations"] = []
    truth.createIndex()
    loaded = truth.loadRes(str(tmp_path / "instances.json"))
    capsys.readouterr()
    assert sorted(loaded.getImgIds()) == [139, 285]
    rows = loaded.loadAnns(loaded.getAnnIds(imgIds=[139]))
    assert [(row["category_id"], row["score"]) for row in rows] == [(7, 0.9), (40, 0.8), (40, 0.3)]
    mask = unpacked(runs_of(rows[1]["segmentation"]["counts"]), SIZE)
    assert np.array_equal(mask, result(0)[2].masks[1].numpy())
    assert rows[1]["bbox"] == [22, 12, 7, 6]


@pytest.mark.parametrize("last", [40, 300])
def test_semantic_png_holds_category_ids(tmp_path, last):
    write(tmp_path, "semantic", ["in/street.png"], known=categories(last)).finish()
    path = tmp_path / "semantic" / "in" / "street.png"
    expected = np.array([0, 7, 0, 9, last])[of_mode("semantic").class_map.numpy() + 1]
    assert np.array_equal(read_labels(path), expected)
    with Image.open(path) as image:
        assert image.mode == ("P" if last < 256 else "I;16")
        if last < 256:
            assert image.convert("RGB").getpixel((0, 0)) == (0, 0, 255)
    content = json.loads((tmp_path / "semantic.json").read_text())
    assert content["annotations"] == [{"image_id": 1, "file_name": "in/street.png"}]
    assert [item["id"] for item in content["categories"]] == [7, 9, last]


def test_names_that_differ_only_in_their_ending(tmp_path):
    images = tmp_path / "images"
    for name in ("a.jpg", "a.PNG", "b.jpg", "sub/a.jpg", "b.json"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).touch()
    for world, rank, names in ((2, 0, ["a.jpg", "b.jpg"]), (2, 1, ["a.PNG", "sub/a.jpg"])):
        writer = ResultWriter(
            tmp_path / "out", mode="semantic", categories=categories(), rank=rank, world=world, overlays=False
        )
        for name in names:
            image = np.zeros((*SIZE, 3), np.uint8)
            writer.add(str(images / name), name, image, of_mode("semantic"))
        if rank == 0:
            first = writer
        else:
            writer.finish()
    first.finish()
    assert files(tmp_path / "out") == [
        "semantic.json", "semantic/a.PNG.png", "semantic/a.jpg.png", "semantic/b.png", "semantic/sub/a.png",
    ]  # fmt: skip


def test_nothing_is_written_outside_the_folder(tmp_path):
    write(tmp_path / "out", "semantic", ["../../a.jpg", "/etc/b.jpg"], overlays=False).finish()
    assert files(tmp_path) == ["out/semantic.json", "out/semantic/a.png", "out/semantic/etc/b.png"]


@pytest.mark.parametrize("mode", ["semantic", "panoptic", "instance"])
def test_two_processes_write_what_one_writes(tmp_path, mode):
    names = ["a.jpg", "b.jpg", "c.jpg"]
    write(tmp_path / "one", mode, names, overlays=False).finish()
    first = ResultWriter(
        tmp_path / "two", mode=mode, categories=categories(), rank=0, world=2, overlays=False
    )
    second = ResultWriter(
        tmp_path / "two", mode=mode, categories=categories(), rank=1, world=2, overlays=False
    )
    image = np.zeros((*SIZE, 3), np.uint8)
    for writer, seeds in ((first, [2, 0]), (second, [1, 0])):  # a.jpg was repeated
        for seed in seeds:
            writer.add(f"somewhere/{names[seed]}", names[seed], image, of_mode(mode, seed))
    second.finish()
    first.finish()
    assert files(tmp_path / "one") == files(tmp_path / "two")
    for name in files(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_results_of_a_process_that_did_not_finish(tmp_path):
    write(tmp_path, "panoptic", ["b.jpg"], rank=1, world=2, overlays=False)
    first = write(tmp_path, "panoptic", ["a.jpg"], rank=0, world=2, overlays=False)
    with pytest.raises(StorageError, match="process 1 of 2 left no complete results") as error:
        first.finish()
    assert "share" in error.value.hint
    assert not (tmp_path / "panoptic.json").exists()


def test_ids_of_the_annotation_file_are_kept(tmp_path):
    writer = ResultWriter(tmp_path, mode="panoptic", categories=categories(), rank=0, world=1, overlays=False)
    for name, number in (("x.jpg", 31), ("y.jpg", 12)):
        image = np.zeros((*SIZE, 3), np.uint8)
        writer.add(name, name, image, of_mode("panoptic"), image_id=number)
    writer.finish()
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert [row["image_id"] for row in content["annotations"]] == [31, 12]


def test_a_run_without_images_leaves_valid_files(tmp_path):
    write(tmp_path, "instance", []).finish()
    assert json.loads((tmp_path / "instances.json").read_text()) == []
    assert json.loads((tmp_path / "images.json").read_text())["images"] == []


def test_a_file_that_cannot_be_written_leaves_no_part(tmp_path):
    writer = write(tmp_path, "semantic", [], overlays=False)
    (tmp_path / "semantic").write_text("in the way")
    with pytest.raises(StorageError, match=r"a\.png: the file cannot be written"):
        writer.add("a.jpg", "a.jpg", np.zeros((*SIZE, 3), np.uint8), of_mode("semantic"))
    (tmp_path / "semantic").unlink()
    (tmp_path / "semantic" / "a.png").mkdir(parents=True)
    with pytest.raises(StorageError):
        writer.add("a.jpg", "a.jpg", np.zeros((*SIZE, 3), np.uint8), of_mode("semantic"))
    writer.finish()
    assert [name for name in files(tmp_path) if "part" in name] == []
    with pytest.raises(StorageError, match="results cannot be written there") as error:
        write(tmp_path / "semantic.json", "semantic", [])
    assert error.value.hint.startswith("-o results_dir=")
