"""Settings of all networks become one set of trainer settings."""

from types import SimpleNamespace
from typing import Any

import pytest

from skillbank.specs import network, network_names, spec_class
from skillbank_runners.placement import Placement
from skillbank_runners.ranks import Rank
from skillbank_runners.strategies import Replicated, Sharded, StartedRanks
from skillbank_runners.trainer import Host, TrainSettings, _strategy, setting_of


def spec_of(name: str, **train: Any) -> Any:
    """The default train spec of a network, with other values in `train`."""
    model = spec_class(name, "train")
    nested = model().model_dump()
    for key, value in train.items():
        nested["train"][key] = value
    return model.model_validate(nested)


@pytest.mark.parametrize("name", [name for name in network_names() if "train" in network(name).actions])
def test_the_settings_of_every_network_are_read(name: str) -> None:
    found = TrainSettings.read(spec_of(name))
    assert found.precision in {"fp32", "fp16", "bf16"}
    assert found.strategy in {"ddp", "fsdp"}
    assert found.num_epochs >= 1
    assert found.validation_interval > 0
    assert found.clip is not None
    bound, norm, kind = found.clip
    assert bound > 0
    assert norm == 2.0
    assert kind == "full"


def test_clipping_goes_by_the_name_of_each_network() -> None:
    assert TrainSettings.read(spec_of("mask2former", clip_grad_norm=0.3)).clip == (0.3, 2.0, "full")
    assert TrainSettings.read(spec_of("mask2former", clip_grad_norm=0.0)).clip is None
    assert TrainSettings.read(spec_of("mask2former", clip_grad_norm_type="inf")).clip == (
        0.1,
        float("inf"),
        "full",
    )
    clip = TrainSettings.read(spec_of("sparse4d")).clip
    assert clip == (25.0, 2.0, "full")


def test_intervals_of_every_kind_are_one_number_of_epochs() -> None:
    assert TrainSettings.read(spec_of("mask2former", validation_interval=3)).validation_interval == 3
    assert TrainSettings.read(spec_of("sparse4d", validation_interval=0.5)).validation_interval == 0.5
    never = TrainSettings.read(spec_of("sparse4d", validation_interval=0.0, num_epochs=7))
    assert never.validation_interval == 7
    # nvpanoptix3d has a val_check_interval in steps that is not read
    assert TrainSettings.read(spec_of("nvpanoptix3d")).validation_interval == 1
    inside = SimpleNamespace(train=SimpleNamespace(val_check_interval=0.25, validation_interval=1))
    assert TrainSettings.read(inside).validation_interval == 0.25


def test_a_key_that_a_network_lacks_or_leaves_empty_gives_the_other_value() -> None:
    spec = SimpleNamespace(train=SimpleNamespace(a=None, b=0))
    assert setting_of(spec, "train.a", 5) == 5
    assert setting_of(spec, "train.b", 5) == 0
    assert setting_of(spec, "export.b.c", 5) == 5


def host(processes: int, local: int = 0) -> Host:
    placement = Placement(accelerator="cpu", processes=processes)
    return Host(placement=placement, rank=Rank(per_node=processes, local=local, port=1234))


def test_several_processes_share_by_ddp_or_fsdp() -> None:
    training = TrainSettings.read(spec_of("mask2former"))
    recomputing = spec_of("mask2former", activation_checkpoint=True)
    found = _strategy(recomputing, host(2), training, None)
    assert isinstance(found, Replicated)
    assert found._ddp_kwargs["find_unused_parameters"] is True
    found = _strategy(recomputing, host(2), None, None)
    assert isinstance(found, Replicated)
    assert found._ddp_kwargs["find_unused_parameters"] is False
    # the documents' ddp_sharded
    sharded = TrainSettings.read(spec_of("mask2former", distributed_strategy="fsdp"))
    assert isinstance(_strategy(recomputing, host(2), sharded, None), Sharded)
    assert not isinstance(_strategy(recomputing, host(1), sharded, None), Sharded)


def test_lightning_is_told_which_process_this_is() -> None:
    told = StartedRanks(Rank(local=1, per_node=2, node=1, nodes=2, address="10.0.0.1", port=4711))
    assert (told.global_rank(), told.local_rank(), told.node_rank(), told.world_size()) == (3, 1, 1, 4)
    assert (told.main_address, told.main_port) == ("10.0.0.1", 4711)
    assert told.creates_processes_externally
