"""Losses of stage 1 against sums written out in float64, weights of images, and images without truth."""

import pytest
import torch
from scene_cases import random_batch, random_output

from skillbank_models.data.batch import MaskTarget
from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.nvpanoptix3d.image_criterion import ImageCriterion, room_pixels

SETTINGS = {
    "num_classes": 5,
    "class_weight": 2.0,
    "mask_weight": 5.0,
    "dice_weight": 3.0,
    "depth_weight": 7.0,
    "occupancy_weight": 11.0,
    "no_object_weight": 0.1,
    "num_points": 60,
    "oversample_ratio": 3.0,
    "importance_sample_ratio": 0.75,
    "deep_supervision": True,
    "size_divisibility": 8,
}


def criterion(**changes):
    return ImageCriterion(**{**SETTINGS, **changes})


def depth_by_hand(depth, truth, weights):
    """Pixel by pixel: the label under the middle of each predicted pixel."""
    total = share = 0.0
    for image in range(len(depth)):
        errors = []
        for row in range(depth.shape[1]):
            for column in range(depth.shape[2]):
                y = int((row + 0.5) * truth.shape[1] / depth.shape[1])
                x = int((column + 0.5) * truth.shape[2] / depth.shape[2])
                label = float(truth[image, y, x])
                if label > 0:
                    errors.append(abs(float(depth[image, row, column]) - label))
        if errors:
            total += float(weights[image]) * sum(errors) / len(errors)
            share += float(weights[image])
    return total / share


def test_depth_is_compared_where_it_is_known():
    output, batch = random_output(), random_batch(weights=torch.tensor([1.0, 0.25]))
    found = criterion()(output, batch)["loss_depth"]
    wanted = depth_by_hand(output.depth.detach().double(), batch.depths.double(), batch.weights)
    assert found.item() == pytest.approx(wanted, rel=1e-5)  # float32 against float64


def test_unknown_depth_never_blends_into_known_depth():
    """A perfect prediction beside unknown pixels has no error, whatever the sizes are."""
    truth = torch.full((1, 32, 40), 3.0)
    truth[:, ::3], truth[:, :, ::5] = 0.0, 0.0
    output = random_output(images=1)._replace(depth=torch.full((1, 42, 56), 3.0, requires_grad=True))
    assert criterion()(output, random_batch(counts=(1,), depths=truth))["loss_depth"].item() == 0.0


def test_pixels_outside_of_the_room_do_not_count():
    rooms = torch.zeros(2, 12, 16, dtype=torch.bool)
    rooms[:, 3:9, 4:] = True
    output, batch = random_output(), random_batch(room_masks=rooms)
    truth = batch.depths.clone()
    for row in range(32):
        for column in range(40):
            inside = row < 24 and rooms[0, row // 2, int((column + 0.5) * 16 / 40)]
            if not inside:
                truth[:, row, column] = 0.0
    found = criterion()(output, batch)["loss_depth"]
    assert found.item() == pytest.approx(criterion()(output, batch._replace(room_masks=None, depths=truth))
                                         ["loss_depth"].item())  # fmt: skip
    assert found.item() != pytest.approx(
        criterion()(output, batch._replace(room_masks=None))["loss_depth"].item()
    )
    assert not room_pixels(rooms, batch.sizes, (32, 40))[:, 24:].any()


def test_occupancy_is_a_mean_over_bins_and_valid_pixels():
    weights = torch.tensor([1.0, 0.25])
    output, batch = random_output(), random_batch(weights=weights)
    found = criterion()(output, batch)["loss_mp_occ"]
    total = 0.0
    for image in range(2):
        p = output.occupancy[image].detach().double().sigmoid()
        t = batch.planes[image].double()
        errors = -(t * p.log() + (1 - t) * (1 - p).log()).sum(0)  # over the bins
        valid = batch.plane_valid[image]
        total += float(weights[image]) * float(errors[valid].sum() / valid.sum()) / 7
    assert found.item() == pytest.approx(total / 1.25, rel=1e-5)  # float32 against float64


def test_images_without_valid_pixels_leave_the_mean_to_the_others():
    output, batch = random_output(), random_batch()
    empty = batch.plane_valid.clone()
    empty[1] = False
    depths = batch.depths.clone()
    depths[1] = 0.0
    found = criterion()(output, batch._replace(plane_valid=empty, depths=depths))
    first = criterion()(
        output._replace(depth=output.depth[:1], occupancy=output.occupancy[:1],
                        predictions=random_output(images=1).predictions),
        random_batch(counts=(3,), depths=depths[:1], planes=batch.planes[:1], plane_valid=empty[:1]),
    )  # fmt: skip
    for name in ("loss_depth", "loss_mp_occ"):
        assert found[name].item() == pytest.approx(first[name].item(), rel=1e-6)


def nothing_known():
    batch = random_batch(counts=(0, 0))
    return batch._replace(
        depths=torch.zeros_like(batch.depths), plane_valid=torch.zeros_like(batch.plane_valid)
    )


@pytest.mark.parametrize(
    "batch",
    [
        nothing_known(),
        random_batch(counts=(0, 0), depths=None, planes=None, plane_valid=None),
        random_batch(counts=(2, 1), weights=torch.zeros(2)),
    ],
    ids=["no valid pixel", "not loaded", "weights of zero"],
)
def test_without_truth_losses_are_zero_and_gradients_exist(batch):
    output, own = random_output(), criterion()
    losses = own(output, batch)
    for name in ("loss_mask", "loss_dice", "loss_depth", "loss_mp_occ"):
        assert losses[name].item() == 0.0, name
    own.total(losses).backward()
    for tensor in (*output.predictions, output.depth, output.occupancy):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
    assert not output.depth.grad.any()
    assert not output.occupancy.grad.any()


def test_the_total_weighs_each_term():
    found = criterion().total(
        {
            name: torch.tensor(value)
            for name, value in {
                "loss_ce": 1.0, "loss_ce_0": 2.0, "loss_mask": 10.0, "loss_dice": 100.0, "loss_dice_0": 1.0,
                "loss_depth": 1000.0, "loss_mp_occ": 10000.0,
            }.items()
        }
    )  # fmt: skip
    assert found.item() == 2 * 3 + 5 * 10 + 3 * 101 + 7 * 1000 + 11 * 10000


def test_all_terms_are_there():
    names = set(criterion()(random_output(layers=3), random_batch()))
    kinds = {f"loss_{kind}{end}" for kind in ("ce", "mask", "dice") for end in ("", "_0", "_1")}
    assert names == kinds | {"loss_depth", "loss_mp_occ"}


def test_a_weight_of_zero_leaves_an_image_out():
    """The first image counts alone; the points are fixed, as they are drawn image by image."""
    points = torch.rand(1, 60, 2, generator=torch.Generator().manual_seed(3))
    settings = {
        "importance_sample_ratio": 0.0,
        "points": lambda rows, count, device: points[:, :count].expand(rows, -1, -1),
    }
    output, batch = random_output(), random_batch(weights=torch.tensor([0.7, 0.0]))
    found = criterion(**settings)(output, batch)
    given = output.predictions
    alone = output._replace(
        predictions=MaskPredictions(
            given.class_logits[:, :1], given.mask_embeds[:, :1], given.mask_features[:1]
        ),
        depth=output.depth[:1],
        occupancy=output.occupancy[:1],
    )
    single = batch._replace(
        images=batch.images[:1], sizes=batch.sizes[:1], targets=batch.targets[:1], depths=batch.depths[:1],
        planes=batch.planes[:1], plane_valid=batch.plane_valid[:1], weights=torch.ones(1),
    )  # fmt: skip
    wanted = criterion(**settings)(alone, single)
    for name, value in wanted.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_truth_is_padded_as_the_network_pads():
    """Masks and depth of a batch that the loader left unpadded mean the same as padded ones."""
    points = torch.rand(1, 60, 2, generator=torch.Generator().manual_seed(3))
    own = criterion(
        importance_sample_ratio=0.0, points=lambda rows, count, device: points[:, :count].expand(rows, -1, -1)
    )
    output, batch = random_output(), random_batch(size=(32, 40), content=(24, 36))
    for target in batch.targets:
        target.masks[:, 24:], target.masks[:, :, 36:] = False, False
    batch.depths[:, :, 36:] = 0.0
    bare = batch._replace(
        images=batch.images[..., :25, :36],
        targets=[MaskTarget(t.labels, t.masks[:, :25, :36]) for t in batch.targets],
        depths=batch.depths[:, :25, :36],
    )
    wanted, found = own(output, batch), own(output, bare)
    for name, value in wanted.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-6), name


def test_matches_are_those_of_the_last_layer():
    points = torch.rand(1, 60, 2, generator=torch.Generator().manual_seed(3))
    own = criterion(points=lambda rows, count, device: points[:, :count].expand(rows, -1, -1))
    output, batch = random_output(layers=3), random_batch()
    every = own.masks.matcher(output.predictions, batch.targets)
    found = own.match(output, batch)
    assert [match.queries.shape for match in found] == [(1, 3), (1, 1)]
    for all_layers, last in zip(every, found, strict=True):
        assert torch.equal(all_layers.queries[-1], last.queries[0])
        assert torch.equal(all_layers.rows[-1], last.rows[0])


def test_sixteen_bits_are_compared_in_thirty_two():
    output, batch, own = random_output(), random_batch(), criterion(importance_sample_ratio=0.0)
    half = output._replace(
        predictions=MaskPredictions(*(x.bfloat16() for x in output.predictions)),
        depth=output.depth.bfloat16(),
        occupancy=output.occupancy.bfloat16(),
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = own(half, batch)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in found.values())
    assert found["loss_depth"].item() == pytest.approx(own(output, batch)["loss_depth"].item(), rel=0.01)
