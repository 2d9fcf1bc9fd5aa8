"""Losses of predicted masks: definition, names, precision, empty images, several processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mask_cases import random_predictions, random_targets

from skillbank_models.layers.mask_criterion import MaskCriterion
from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.ops.point_sampling import sample_maps

CLASSES, QUERIES = 4, 6
SETTINGS = {
    "num_classes": CLASSES,
    "class_weight": 2.0,
    "mask_weight": 5.0,
    "dice_weight": 3.0,
    "no_object_weight": 0.1,
    "num_points": 80,
    "oversample_ratio": 3.0,
    "importance_sample_ratio": 0.75,
    "deep_supervision": True,
}


def criterion(**changes):
    return MaskCriterion(**{**SETTINGS, **changes})


def predictions(images=1, layers=2, **changes):
    return random_predictions(
        layers=layers, images=images, queries=QUERIES, classes=CLASSES, width=16, size=(16, 16), **changes
    )


def targets(*counts):
    return random_targets(counts, classes=CLASSES, size=(32, 32))


def test_losses_follow_the_definition():
    """All points are even ones and the same for all, so that float64 can repeat the whole computation."""
    points = torch.rand(1, 80, 2, generator=torch.Generator().manual_seed(1))
    given, truth = predictions(images=2), targets(3, 1)
    own = criterion(
        importance_sample_ratio=0.0, points=lambda rows, count, device: points.expand(rows, count, 2)
    )
    matches = []
    own.matcher.register_forward_hook(lambda _module, _inputs, out: matches.extend(out))
    found = own(given, truth)
    for layer, ending in ((0, "_0"), (1, "")):
        entropy = dice = top = bottom = 0.0
        for image, (target, match) in enumerate(zip(truth, matches, strict=True)):
            queries, rows = match.queries[layer].tolist(), match.rows[layer].tolist()
            logits = given.mask_logits(layer)[image].detach().double()
            for query, row in zip(queries, rows, strict=True):
                p = sample_maps(logits[None, query : query + 1], points.double())[0, 0].sigmoid()
                t = sample_maps(target.masks[None, row : row + 1].double(), points.double())[0, 0]
                entropy += float(-(t * p.log() + (1 - t) * (1 - p).log()).mean())
                dice += float(1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
            shares = given.class_logits[layer, image].detach().double().softmax(-1)
            for query in range(QUERIES):
                matched = query in queries
                label = int(target.labels[rows[queries.index(query)]]) if matched else CLASSES
                weight = 1.0 if matched else 0.1
                top -= weight * float(shares[query, label].log())
                bottom += weight
        # 1e-5: float32 against float64
        assert found[f"loss_mask{ending}"].item() == pytest.approx(entropy / 4, rel=1e-5)
        assert found[f"loss_dice{ending}"].item() == pytest.approx(dice / 4, rel=1e-5)
        assert found[f"loss_ce{ending}"].item() == pytest.approx(top / bottom, rel=1e-5)


def test_total_weighs_every_layer_alike():
    own = criterion()
    losses = {"loss_ce": 1.0, "loss_mask": 10.0, "loss_dice": 100.0, "loss_ce_0": 0.5, "loss_mask_11": 20.0}
    found = own.total({name: torch.tensor(value) for name, value in losses.items()})
    assert found.item() == pytest.approx(2 * 1.5 + 5 * 30 + 3 * 100)


def test_every_layer_has_its_losses():
    found = criterion()(predictions(layers=3), targets(2))
    assert set(found) == {f"loss_{kind}{end}" for kind in ("ce", "mask", "dice") for end in ("", "_0", "_1")}
    assert all(value.ndim == 0 and value.dtype == torch.float32 for value in found.values())


def test_without_deep_supervision_only_the_last_layer_learns():
    given = predictions(layers=3)
    own = criterion(deep_supervision=False)
    found = own(given, targets(2))
    assert set(found) == {"loss_ce", "loss_mask", "loss_dice"}
    own.total(found).backward()
    for gradient in (given.class_logits.grad, given.mask_embeds.grad):
        assert not gradient[:-1].any()
        assert gradient[-1].any()


def test_images_without_targets_teach_no_object_and_leave_gradients_of_zero():
    given = predictions(images=2)
    own = criterion()
    found = own(given, targets(0, 0))
    assert found["loss_mask"].item() == found["loss_dice_0"].item() == 0.0
    wanted = -given.class_logits[-1].log_softmax(-1)[..., CLASSES].mean()
    torch.testing.assert_close(found["loss_ce"], wanted)
    own.total(found).backward()
    assert given.class_logits.grad.any()
    for tensor in (given.mask_embeds, given.mask_features):
        assert tensor.grad is not None
        assert not tensor.grad.any()


def test_images_count_by_their_weight():
    """Fixed points, so that two images can be put together from the losses of each."""
    points = torch.rand(1, 80, 2, generator=torch.Generator().manual_seed(1))
    own = criterion(
        importance_sample_ratio=0.0, points=lambda rows, count, device: points.expand(rows, count, 2)
    )
    given, truth = predictions(images=2), targets(3, 1)
    found = own(given, truth, image_weights=torch.tensor([1.0, 0.5]))
    singles = []
    for image in range(2):
        part = MaskPredictions(
            given.class_logits[:, image : image + 1],
            given.mask_embeds[:, image : image + 1],
            given.mask_features[image : image + 1],
        )
        singles.append(own(part, truth[image : image + 1]))
    for ending in ("", "_0"):
        for kind in ("mask", "dice"):
            first, second = (each[f"loss_{kind}{ending}"].item() for each in singles)
            wanted = (3 * first + 0.5 * second) / 3.5
            assert found[f"loss_{kind}{ending}"].item() == pytest.approx(wanted, rel=1e-5)
        first, second = (each[f"loss_ce{ending}"].item() for each in singles)
        shares = (
            3 + 3 * 0.1,
            0.5 * (1 + 5 * 0.1),
        )  # matched queries, and the others at the weight of no-object
        wanted = (shares[0] * first + shares[1] * second) / sum(shares)
        assert found[f"loss_ce{ending}"].item() == pytest.approx(wanted, rel=1e-5)
    same = own(given, truth, image_weights=torch.ones(2))
    for name, value in own(given, truth).items():
        assert same[name].item() == pytest.approx(value.item(), rel=1e-6)


def test_a_weightless_no_object_class_and_no_target_give_zero():
    given = predictions()
    own = criterion(no_object_weight=0.0)
    loss = own.total(own(given, targets(0)))
    assert loss.item() == 0.0
    loss.backward()
    assert all(tensor.grad.isfinite().all() for tensor in given)


def test_an_empty_image_beside_a_full_one_changes_only_the_class_loss():
    points = torch.rand(1, 240, 2, generator=torch.Generator().manual_seed(1))
    own = criterion(points=lambda rows, count, device: points[:, :count].expand(rows, count, 2))
    given = predictions(images=2)
    both = own(given, targets(3, 0))
    alone = own(
        MaskPredictions(*(t.narrow(d, 0, 1) for t, d in zip(given, (1, 1, 0), strict=True))), targets(3)
    )
    for name in ("loss_mask", "loss_dice_0"):
        torch.testing.assert_close(both[name], alone[name])
    assert both["loss_ce"].item() != pytest.approx(alone["loss_ce"].item(), rel=1e-3)


def test_more_masks_than_queries():
    given = predictions()
    own = criterion()
    loss = own.total(own(given, targets(20)))
    loss.backward()
    assert loss.isfinite()
    assert all(tensor.grad.isfinite().all() for tensor in given)


def test_autocast_does_not_reach_the_losses():
    given = MaskPredictions(*(tensor.detach().bfloat16().requires_grad_() for tensor in predictions()))
    own, truth = criterion(), targets(3)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = own(given, truth)
    torch.manual_seed(0)
    outside = own(MaskPredictions(*(tensor.float() for tensor in given)), truth)
    assert all(torch.equal(inside[name], outside[name]) for name in outside)
    own.total(inside).backward()
    assert all(tensor.grad.dtype == torch.bfloat16 and tensor.grad.any() for tensor in given)


def test_the_same_seed_gives_the_same_bits():
    def gradients():
        torch.manual_seed(3)
        given = predictions(images=2)
        own = criterion()
        own.total(own(given, targets(3, 2))).backward()
        return [tensor.grad for tensor in given]

    assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients(), strict=True))


def test_it_adds_nothing_to_a_checkpoint():
    assert criterion().state_dict() == {}


RANKS = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[3])
from mask_cases import random_predictions, random_targets
from skillbank_models.layers.mask_criterion import MaskCriterion

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
own = MaskCriterion(num_classes=4, class_weight=1.0, mask_weight=1.0, dice_weight=1.0, no_object_weight=0.1,
    num_points=16, oversample_ratio=3.0, importance_sample_ratio=0.5, deep_supervision=True)
given = random_predictions(layers=1, images=1, queries=6, classes=4, width=8, size=(8, 8))
targets = random_targets((5,) if rank else (0,), classes=4, size=(16, 16))
print(float(own._num_masks(targets, torch.device("cpu"))))
own(given, targets)
# only one process validates a batch: nothing may wait for the other
own.eval()
if rank:
    own(given, targets)
    print(float(own._num_masks(targets, torch.device("cpu"))))
dist.destroy_process_group()
"""


def test_processes_share_the_number_of_masks_while_training_only(tmp_path):
    fixtures = str(Path(__file__).parents[3] / "fixtures")
    command = [sys.executable, "-c", RANKS]
    runs = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meet"), fixtures], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    texts = [run.communicate(timeout=120)[0].split() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert texts == [["2.5"], ["2.5", "5.0"]]
