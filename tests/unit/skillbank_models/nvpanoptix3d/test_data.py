"""From a spec to batches of rooms: files of both layouts, cameras, volumes, targets."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from front3d_files import (
    FRONT3D_SAMPLE,
    MATTERPORT_ID,
    front3d_scene,
    link_matterport,
    make_front3d,
    make_matterport,
)
from room_batches import first, landing, matterport_spec, spec_of
from scene_cases import tiny_spec

from skillbank.errors import MissingFilesError
from skillbank_models.nvpanoptix3d.data import NVPanoptix3DData, grid_of
from skillbank_models.nvpanoptix3d.frustum import frustum_mask
from skillbank_runners.data import DataOrder, arrange

VOLUMES = shutil.ignore_patterns("geometry*", "segmentation*", "weighting*", "*mask*")


@pytest.fixture(scope="module")
def front3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_front3d(tmp_path_factory.mktemp("front3d"), {"a": "0007", "b": "0012", "c": "0003"})


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Small copies, for tests that are not about reading volumes."""
    return str(tmp_path_factory.mktemp("copies"))


@pytest.fixture(scope="module")
def matterport(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_matterport(tmp_path_factory.mktemp("matterport"))


# --- stage 1


def test_stage_1_has_images_masks_depth_and_planes(front3d: Path) -> None:
    batch = first(spec_of(front3d))
    assert batch.images.shape == (2, 3, 128, 160)
    assert batch.images.dtype == torch.float32
    assert batch.images[:, :, :120].max() > 150  # 0..255
    assert (batch.images[:, :, 120:] == 128).all()
    assert batch.sizes == batch.original_sizes == [(120, 160)] * 2
    assert [target.labels.tolist() for target in batch.targets] == [[8, 3, 10, 11]] * 2  # ids 2 and 5, stuff
    assert batch.targets[0].masks.shape == (4, 128, 160)
    assert not batch.targets[0].masks[:, 120:].any()
    assert batch.depths is not None
    assert batch.depths.shape == (2, 128, 160)
    assert batch.depths[:, :120].min() > 1
    assert (batch.depths[:, 120:] == 0).all()
    assert batch.planes is not None
    assert batch.planes.shape == (2, 25, 60, 80)
    assert batch.plane_valid is not None
    assert batch.plane_valid.all()
    assert batch.frusta is None
    assert batch.room_masks is None
    assert batch.volumes == batch.truths == []
    assert batch.weights.tolist() == [1.0, 1.0]
    assert batch.cameras_known == (True, True)
    assert {*batch.image_ids} <= {"a/0007", "b/0012", "c/0003"}
    assert all(Path(name).is_file() for name in batch.file_names)


def test_bins_of_the_plane_are_filled_at_the_depth_that_is_seen(front3d: Path) -> None:
    batch = first(spec_of(front3d))
    assert batch.planes is not None
    assert batch.depths is not None
    depth = batch.depths[0, 1:120:2, 1::2]  # (h, w)
    seen = (depth / 6.0 * 25).long()
    rows, columns = torch.meshgrid(torch.arange(60), torch.arange(80), indexing="ij")
    assert batch.planes[0][seen, rows, columns].float().mean() > 0.99
    nearer = (seen - 8).clamp(min=0)  # 2 m before the surface there is nothing, except before what is beside
    assert batch.planes[0][nearer, rows, columns].float().mean() < 0.05


def test_without_the_plane_loss_no_volume_is_needed(front3d: Path, tmp_path: Path) -> None:
    base = tmp_path / "bare"
    shutil.copytree(front3d, base, ignore=VOLUMES)
    batch = first(spec_of(base, dataset__enable_mp_occ=False))
    assert batch.planes is None
    assert batch.plane_valid is None
    with pytest.raises(MissingFilesError, match=r"geometry_0003\.npz") as caught:
        first(spec_of(base))
    assert "segmentation" not in str(caught.value)


def test_evaluation_of_stage_1_reads_no_volume(front3d: Path, tmp_path: Path) -> None:
    base = tmp_path / "bare"
    shutil.copytree(front3d, base, ignore=VOLUMES)
    batch = first(spec_of(base, action="evaluate"), "test")
    truth = batch.truths[0]
    assert truth.volume is None
    assert truth.depth.shape == (120, 160)
    assert [item.label for item in truth.image.segments] == [3, 8, 10, 11]


# --- stage 2


@pytest.mark.parametrize("side", [64, 128, 256])
def test_depth_lands_on_its_label_in_the_volume(side: int, front3d: Path) -> None:
    batch = first(spec_of(front3d, dataset__enable_3d=True, model__frustum3d__grid_dimensions=side), "val")
    found = landing(batch)
    volume = batch.volumes[0]
    assert volume.distance.shape == volume.weighting.shape == volume.owner.shape == (side,) * 3
    assert (volume.distance.dtype, volume.weighting.dtype, volume.owner.dtype) == (
        torch.float32, torch.uint8, torch.int16,
    )  # fmt: skip
    assert found["near"] > 0.98  # a surface is within half a voxel; corners of coarse blocks are farther
    assert found["owner"] > (
        0.99 if side == 256 else 0.97
    )  # coarse voxels at a border have one of two labels
    assert found["inside"] > 0.99
    if side == 256:
        assert found["distance"] < 0.4  # at most half a voxel across a plane, 0.25 on average


FLIPS: list[dict[str, Any]] = [
    {"random_flip": "horizontal", "random_flip_prob": 1.0},
    {"random_flip": "vertical", "random_flip_prob": 1.0},
    {"enable_crop": True, "crop_size": [90, 100]},
    {"enable_crop": True, "crop_size": [80, 120], "random_flip": "horizontal", "random_flip_prob": 1.0},
    {"train_min_size": [150], "train_max_size": 320},
]


@pytest.mark.parametrize("change", FLIPS)
def test_augmentation_keeps_picture_and_volume_together(
    change: dict[str, Any], front3d: Path, copies: str
) -> None:
    dotted = {f"dataset__augmentation__{key}": value for key, value in change.items()}
    spec = spec_of(
        front3d, dataset__enable_3d=True, dataset__cache_dir=copies,
        dataset__min_instance_pixels=1, **dotted,
    )  # fmt: skip
    np.random.seed(0)
    batch = first(spec)
    for place in range(2):
        found = landing(batch, place)
        assert found["near"] > 0.98
        assert found["owner"] > 0.96  # borders; a mirrored volume is below 0.9
        assert found["inside"] > 0.95  # voxels of 12 cm at the border of a crop have their centre outside it
        sides = batch.sizes[place]
        camera = batch.views[place].camera
        assert (camera.height, camera.width) == sides


def test_the_check_of_alignment_can_fail(front3d: Path, copies: str) -> None:
    spec = spec_of(front3d, dataset__enable_3d=True, dataset__cache_dir=copies)
    batch = first(spec, "val")
    volume = batch.volumes[0]
    wrong = batch._replace(volumes=[volume._replace(owner=volume.owner.flip(0))])
    assert landing(wrong)["owner"] < 0.9


def test_a_mirrored_batch_is_the_mirror_of_the_batch(front3d: Path, copies: str) -> None:
    plain = first(spec_of(front3d, dataset__enable_3d=True, dataset__cache_dir=copies), "val")
    spec = spec_of(
        front3d, dataset__enable_3d=True, dataset__cache_dir=copies,
        dataset__augmentation__random_flip="horizontal",
        dataset__augmentation__random_flip_prob=1.0,
    )  # fmt: skip
    data = NVPanoptix3DData(spec)
    data.setup("fit")
    flipped = data._sets["train"][0]
    assert flipped.image_id == plain.image_ids[0]
    assert flipped.volume is not None
    assert flipped.inside is not None
    assert plain.frusta is not None
    for mine, other in zip(flipped.volume, plain.volumes[0], strict=True):
        assert torch.equal(mine.flip(0), other)
    assert torch.equal(flipped.inside.flip(0), plain.frusta[0])
    image = torch.from_numpy(flipped.image).permute(2, 0, 1).flip(2).float()
    assert torch.equal(image, plain.images[0, :, :120])


def test_all_of_a_batch_have_one_short_side(front3d: Path) -> None:
    spec = spec_of(
        front3d, dataset__enable_mp_occ=False, dataset__augmentation__train_min_size=[64, 80, 96, 112],
    )  # fmt: skip
    data = NVPanoptix3DData(spec)
    data.setup("fit")
    arrange(data, DataOrder(seed=0))
    seen = set()
    for _ in range(4):
        for batch in data.train_dataloader():
            assert len(set(batch.sizes)) == 1
            seen.add(batch.sizes[0])
    np.random.seed(1)
    plain = NVPanoptix3DData(spec)
    plain.setup("fit")
    for _ in range(8):
        for batch in plain.train_dataloader():
            assert len(set(batch.sizes)) == 1
            seen.add(batch.sizes[0])
    assert len(seen) > 1


def test_validation_brings_truths(front3d: Path, copies: str) -> None:
    batch = first(spec_of(front3d, dataset__enable_3d=True, dataset__cache_dir=copies), "val")
    truth = batch.truths[0].volume
    assert truth is not None
    assert truth.labels == {4: 8, 5: 3, 1: 10, 2: 11}  # wall, floor, ceiling are 1 to 3; ids 2 and 5 follow
    assert truth.segment_map.shape == truth.distance.shape == (64, 64, 64)
    owner = batch.volumes[0].owner.numpy()
    for row, number in enumerate((4, 5, 1, 2), start=1):  # rows are things by id, then stuff
        np.testing.assert_array_equal(truth.segment_map == number, owner == row)
    np.testing.assert_array_equal(truth.distance, batch.volumes[0].distance.numpy())
    assert batch.planes is None


def test_without_a_mask_file_the_frustum_comes_from_the_camera(front3d: Path, copies: str) -> None:
    stored = first(spec_of(front3d, dataset__enable_3d=True, dataset__cache_dir=copies), "val").frusta
    batch = first(
        spec_of(front3d, dataset__enable_3d=True, dataset__cache_dir=copies, dataset__frustum_mask_path=""),
        "val",
    )
    assert batch.frusta is not None
    assert stored is not None
    assert torch.equal(batch.frusta[0], frustum_mask(batch.views[0], "cpu"))
    overlap = (batch.frusta & stored).sum() / (batch.frusta | stored).sum()
    assert overlap > 0.85  # coarse voxels at the border count in the file when a part of them is inside


def test_small_copies_give_the_same_batches(front3d: Path, tmp_path: Path) -> None:
    plain = first(spec_of(front3d, dataset__enable_3d=True), "val")
    for _ in range(2):
        batch = first(spec_of(front3d, dataset__enable_3d=True, dataset__cache_dir=str(tmp_path)), "val")
    assert list((tmp_path / "volumes").rglob("*.npz"))
    found, wanted = batch.volumes[0], plain.volumes[0]
    assert torch.equal(found.owner, wanted.owner)
    assert torch.equal(found.weighting, wanted.weighting)
    assert (found.distance - wanted.distance).abs().max() < 0.026  # half of 1/20 voxel


def test_variants_of_pictures_share_labels_and_count_less(front3d: Path, tmp_path: Path) -> None:
    base = tmp_path / "front3d"
    shutil.copytree(front3d, base)
    folder = base / "augment" / "a"
    folder.mkdir(parents=True)
    for name in ("rgb_0007_night.png", "rgb_00071.png", "rgb_0008_x.png"):
        shutil.copy(base / "data" / "a" / "rgb_0007.png", folder / name)
    spec = spec_of(base, dataset__enable_mp_occ=False, dataset__augmentation__gen_aug_weight=0.3)
    data = NVPanoptix3DData(spec)
    data.setup("fit")
    samples = [data._sets["train"][place] for place in range(len(data._sets["train"]))]  # type: ignore[arg-type]
    assert [sample.weight for sample in samples] == [1.0, 1.0, 1.0, 0.3]
    assert samples[3].file_name.endswith("augment/a/rgb_0007_night.png")
    assert samples[3].image_id == "a/0007"
    assert len(data._sets["val"]) == 3  # type: ignore[arg-type]


def test_loader_processes_give_the_same(front3d: Path, copies: str) -> None:
    spec = spec_of(front3d, dataset__enable_3d=True, dataset__cache_dir=copies)
    wanted = first(spec, "val")
    split = spec.dataset.val.model_copy(update={"num_workers": 1})
    spec = spec.model_copy(update={"dataset": spec.dataset.model_copy(update={"val": split})})
    found = first(spec, "val")
    assert torch.equal(found.volumes[0].owner, wanted.volumes[0].owner)
    assert found.views == wanted.views
    assert found.truths[0].volume is not None


def test_truths_stay_on_the_host_and_the_rest_moves(front3d: Path, copies: str) -> None:
    spec = spec_of(front3d, dataset__enable_3d=True, dataset__cache_dir=copies)
    batch = first(spec, "val")
    moved = NVPanoptix3DData(spec).transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved.frusta is not None
    assert moved.depths is not None
    tensors = [moved.images, moved.frusta, moved.depths, moved.weights, *moved.targets[0], *moved.volumes[0]]
    assert all(part.device.type == "meta" for part in tensors)
    assert moved.truths is batch.truths
    assert moved.views is batch.views


@pytest.mark.parametrize("name", ["synthetic_hospital", "synthetic_warehouse"])
def test_synthetic_sets_have_the_layout_of_3d_front(name: str, front3d: Path) -> None:
    assert first(spec_of(front3d, dataset__name=name), "val").targets[0].labels.tolist() == [8, 3, 10, 11]


def test_the_folder_of_the_scenes_may_be_given_itself(front3d: Path) -> None:
    spec = spec_of(front3d / "data", json_path=front3d / "meta" / "all.json")
    assert len(first(spec, "val").images) == 1  # and the mask is found beside it


# --- matterport


@pytest.mark.parametrize("side", [64, 256])
def test_matterport_depth_lands_on_its_label(side: int, matterport: Path) -> None:
    spec = matterport_spec(matterport, dataset__enable_3d=True, model__frustum3d__grid_dimensions=side)
    batch = first(spec, "val")
    found = landing(batch)
    assert found["near"] > 0.97
    assert found["owner"] > 0.96
    assert found["inside"] > 0.97  # at the border of the image the centre of a voxel may be outside
    assert batch.volumes[0].distance.min() >= 0  # the stored sign is dropped
    assert batch.views[0].camera.fx == pytest.approx(140.0)
    truth = batch.truths[0].volume
    assert truth is not None
    assert truth.labels == {4: 8, 5: 3, 1: 10, 2: 11}  # ids of stuff voxels make no segment, but are numbered
    assert batch.volumes[0].weighting.unique().tolist() == [1, 25]


def test_matterport_room_masks_reach_depth_and_plane(matterport: Path) -> None:
    batch = first(matterport_spec(matterport), "val")
    assert batch.room_masks is not None
    assert batch.room_masks.shape == (1, 60, 80)
    assert batch.room_masks[0, :, :40].all()
    assert not batch.room_masks[0, :, 40:].any()
    assert batch.depths is not None
    assert (batch.depths[0, :, 80:] == 0).all()
    assert batch.plane_valid is not None
    assert torch.equal(batch.plane_valid, batch.room_masks)
    assert batch.truths[0].depth[:, 80:].min() > 0  # measures see the whole picture
    assert batch.planes is not None
    assert batch.planes.any()


def test_matterport_without_generated_depth_takes_the_original(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = make_matterport(tmp_path / "m", generated=False, flat=True, volumes=False)
    with caplog.at_level(logging.WARNING):
        batch = first(matterport_spec(base, dataset__enable_mp_occ=False), "val")
    assert (
        "the depth of the original release is used, which is several voxels beside the volumes" in caplog.text
    )
    assert batch.room_masks is None
    assert batch.depths is not None
    assert batch.depths[0, 0, 0] == pytest.approx(3.0, abs=1e-3)


# --- real samples


def test_the_real_front3d_image(tmp_path: Path) -> None:
    spec = spec_of(
        FRONT3D_SAMPLE, json_path=front3d_scene(tmp_path), dataset__enable_3d=True,
        dataset__target_size=[320, 240],
        dataset__augmentation__test_min_size=240, dataset__augmentation__test_max_size=960,
        dataset__min_instance_pixels=200, model__frustum3d__grid_dimensions=256,
        dataset__cache_dir=str(tmp_path / "c"),
    )  # fmt: skip
    batch = first(spec, "val")
    found = landing(batch)
    assert found["near"] > 0.99
    assert found["distance"] < 0.5
    assert found["owner"] > 0.98
    truth = batch.truths[0].volume
    assert truth is not None
    assert np.count_nonzero(truth.segment_map) == 65740
    assert (batch.volumes[0].distance < 1).sum() == 65740
    assert truth.labels == {4: 9, 5: 4, 6: 5, 7: 5, 1: 10, 2: 11}
    assert batch.frusta is not None
    assert batch.frusta.sum() == 2659390
    assert batch.volumes[0].weighting.unique().tolist() == [1, 2, 5, 10]
    again = first(spec, "val").volumes[0]  # from the small copies
    assert torch.equal(again.owner, batch.volumes[0].owner)
    assert ((again.distance < 1) == (batch.volumes[0].distance < 1)).all()


def test_the_real_matterport_image(tmp_path: Path) -> None:
    base = link_matterport(tmp_path / "m")
    spec = matterport_spec(
        base, dataset__enable_3d=True, dataset__target_size=[320, 240], dataset__min_instance_pixels=200,
        dataset__augmentation__test_min_size=240, dataset__augmentation__test_max_size=960,
        model__frustum3d__grid_dimensions=256,
    )  # fmt: skip
    batch = first(spec, "val")
    assert batch.image_ids == [f"s/{MATTERPORT_ID}"]
    assert batch.views[0].camera.fx == pytest.approx(269.42)
    assert batch.views[0].camera.cy == pytest.approx(125.21474)
    assert batch.targets[0].labels.tolist() == [9, 1, 1, 9, 9, 2, 10, 11, 12]
    truth = batch.truths[0].volume
    assert truth is not None
    assert np.count_nonzero(truth.segment_map) == 196029
    assert (batch.volumes[0].distance < 1).sum() == 41436
    assert batch.frusta is not None
    overlap = frustum_mask(batch.views[0], "cpu")
    assert (batch.frusta[0] & overlap).sum() / (batch.frusta[0] | overlap).sum() > 0.995
    outside = ~batch.frusta[0]
    assert (batch.volumes[0].distance[outside] == 12).all()


def test_the_grid_is_the_same_room_in_larger_voxels() -> None:
    grid = grid_of(tiny_spec(model__frustum3d__grid_dimensions=64, train__checkpoint_2d="x"))
    assert (grid.side, grid.voxel, grid.factor) == (64, 0.12, 4)
