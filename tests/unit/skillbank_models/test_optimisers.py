"""Parameter groups and schedules."""

import math

import pytest
import torch
from torch import nn

from skillbank.errors import ConflictError, InvalidValueError
from skillbank.specs.common import Optim
from skillbank_models.layers.norms import ChannelLayerNorm
from skillbank_models.nvpanoptix3d.frustum_blocks import DenseInstanceNorm
from skillbank_models.optimisers import build_optimiser, build_schedule
from skillbank_models.sparse.layers import SparseInstanceNorm


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.ones(9, 2))
        self.qkv = nn.Linear(4, 12)


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.absolute_pos_embed = nn.Parameter(torch.ones(1, 4, 2, 2))
        self.attn = Attention()
        self.norm0 = nn.LayerNorm(4)
        self.bn = nn.BatchNorm2d(4)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.level_embed = nn.Parameter(torch.ones(3, 4))  # bare, as in the pixel decoder
        self.conv = nn.Conv2d(4, 4, 1)
        self.gn = nn.GroupNorm(2, 4)
        self.sync = nn.SyncBatchNorm(4)
        self.ln = ChannelLayerNorm(4)
        self.query_feat = nn.Embedding(5, 4)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.sem_seg_head = Head()


WITHOUT_DECAY = {
    "backbone.absolute_pos_embed",
    "backbone.attn.relative_position_bias_table",
    "backbone.norm0.weight",
    "backbone.norm0.bias",
    "backbone.bn.weight",
    "backbone.bn.bias",
    *(f"sem_seg_head.{norm}.{part}" for norm in ("gn", "sync", "ln") for part in ("weight", "bias")),
    "sem_seg_head.query_feat.weight",
}


def settings(**changes):
    return Optim.model_validate({"lr": 1e-3, "weight_decay": 0.05, "backbone_multiplier": 0.1, **changes})


def names_of(optimizer, network):
    by_id = {id(parameter): name for name, parameter in network.named_parameters()}
    return {
        group["name"]: {by_id[id(parameter)] for parameter in group["params"]}
        for group in optimizer.param_groups
    }


def test_four_groups_by_rate_and_decay():
    network = Network()
    optimizer = build_optimiser(network, settings())
    found = names_of(optimizer, network)
    every = {name for name, _ in network.named_parameters()}
    of_backbone = {name for name in every if name.startswith("backbone.")}
    assert found == {
        "backbone": of_backbone - WITHOUT_DECAY,
        "backbone without decay": of_backbone & WITHOUT_DECAY,
        "head": every - of_backbone - WITHOUT_DECAY,
        "head without decay": WITHOUT_DECAY - of_backbone,
    }
    assert "sem_seg_head.level_embed" in found["head"]
    assert "sem_seg_head.conv.bias" in found["head"]
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert rates == {
        "backbone": (pytest.approx(1e-4), 0.05),
        "backbone without decay": (pytest.approx(1e-4), 0.0),
        "head": (1e-3, 0.05),
        "head without decay": (1e-3, 0.0),
    }


def test_what_is_frozen_is_left_out():
    network = Network()
    network.backbone.requires_grad_(False)
    found = names_of(build_optimiser(network, settings()), network)
    assert set(found) == {"head", "head without decay"}


def test_nothing_to_train_is_said():
    network = Network().requires_grad_(False)
    with pytest.raises(ConflictError, match="every parameter of the network is frozen") as error:
        build_optimiser(network, settings())
    assert error.value.key == "train.freeze"


def test_a_shared_parameter_comes_once():
    network = Network()
    network.sem_seg_head.other = network.sem_seg_head.conv
    counted = sum(len(group["params"]) for group in build_optimiser(network, settings()).param_groups)
    assert counted == len(list(network.parameters()))


def test_wrappers_do_not_hide_the_backbone():
    network = Network()
    wrapped = nn.Module()
    wrapped._fsdp_wrapped_module = nn.Module()
    wrapped._fsdp_wrapped_module.backbone = network.backbone
    found = names_of(build_optimiser(wrapped, settings()), wrapped)
    assert set(found) == {"backbone", "backbone without decay"}


def test_momentum_is_the_first_decay_rate_of_adamw():
    optimizer = build_optimiser(Network(), settings(momentum=0.8))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(group["betas"] == (0.8, 0.999) for group in optimizer.param_groups)
    with pytest.raises(InvalidValueError, match=r"train\.optim\.momentum: 1\.0 is not allowed with AdamW"):
        build_optimiser(Network(), settings(momentum=1.0))


def test_sgd_has_momentum():
    optimizer = build_optimiser(Network(), settings(type="SGD", momentum=0.7))
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(group["momentum"] == 0.7 for group in optimizer.param_groups)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
def test_steps_equal_the_plain_form_and_repeat_to_the_bit(kind):
    def run(fused):
        torch.manual_seed(0)
        network = Network()
        optimizer = build_optimiser(network, settings(type=kind))
        if not fused:
            for group in optimizer.param_groups:
                group["fused"], group["foreach"] = False, False
        for _ in range(4):
            for parameter in network.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        return list(network.parameters())

    once, again, plain = run(True), run(True), run(False)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    for a, b in zip(once, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)  # other order of float32 operations


def rates(optimizer, schedule, steps):
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[-1]["lr"])
        optimizer.step()
        schedule["scheduler"].step()
    return found


@pytest.mark.parametrize(
    ("changes", "interval", "wanted"),
    [
        ({"lr_scheduler": "MultiStep", "milestones": [2, 3]}, "epoch", [1, 1, 0.1, 0.01, 0.01]),
        ({"lr_scheduler": "StepLR", "milestones": [2, 9], "gamma": 0.5}, "epoch", [1, 1, 0.5, 0.5, 0.25]),
        (
            {"lr_scheduler": "Warmuppoly"},
            "step",
            [1, 0.75**0.9, 0.5**0.9, 0.25**0.9, 0.0],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_schedules(changes, interval, wanted):
    optim = settings(**changes)
    optimizer = build_optimiser(Network(), optim)
    schedule = build_schedule(optimizer, optim, total_steps=4)
    assert schedule["interval"] == interval
    assert schedule["monitor"] == "val_loss"
    assert rates(optimizer, schedule, 5) == pytest.approx([1e-3 * share for share in wanted], abs=1e-12)


def test_norms_of_volumes_do_not_decay():
    network = nn.ModuleDict(
        {"dense": DenseInstanceNorm(4, norm="instance"), "sparse": SparseInstanceNorm(4, affine=True)}
    )
    groups = build_optimiser(network, settings()).param_groups
    assert [(group["name"], len(group["params"])) for group in groups] == [("head without decay", 4)]


def test_the_poly_schedule_warms_up_first():
    """detectron2's WarmupPolyLR: a linear factor times the polynomial."""
    optim = settings(lr_scheduler="Warmuppoly")
    optimizer = build_optimiser(Network(), optim)
    schedule = build_schedule(optimizer, optim, total_steps=8, warmup_steps=4, warmup_factor=0.2)
    warm = [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    wanted = [1e-3 * factor * (1 - step / 8) ** 0.9 for step, factor in enumerate(warm)]
    assert rates(optimizer, schedule, 6) == pytest.approx(wanted, abs=1e-12)


def test_all_groups_follow_and_the_poly_schedule_stays_at_zero():
    optim = settings(lr_scheduler="Warmuppoly")
    optimizer = build_optimiser(Network(), optim)
    schedule = build_schedule(optimizer, optim, total_steps=2)
    rates(optimizer, schedule, 1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 * math.pow(0.5, 0.9))
    rates(optimizer, schedule, 3)
    assert all(group["lr"] == 0.0 for group in optimizer.param_groups)


def test_a_schedule_goes_on_where_it_was_left():
    optim = settings(lr_scheduler="Warmuppoly")
    optimizer = build_optimiser(Network(), optim)
    schedule = build_schedule(optimizer, optim, total_steps=10)
    rates(optimizer, schedule, 3)
    left = optimizer.state_dict(), schedule["scheduler"].state_dict()
    wanted = rates(optimizer, schedule, 4)
    optimizer = build_optimiser(Network(), optim)
    schedule = build_schedule(optimizer, optim, total_steps=10)
    optimizer.load_state_dict(left[0])
    schedule["scheduler"].load_state_dict(left[1])
    assert rates(optimizer, schedule, 4) == wanted


@pytest.mark.parametrize("milestones", [[], [0]])
def test_a_step_schedule_needs_a_period(milestones):
    optim = settings(lr_scheduler="StepLR", milestones=milestones)
    with pytest.raises(InvalidValueError, match=r"train\.optim\.milestones: \[0?\] gives StepLR no period"):
        build_schedule(build_optimiser(Network(), optim), optim, total_steps=4)
