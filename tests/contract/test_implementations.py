"""What every implementation that is there has to offer; the toy network is always among them."""

import importlib

import pytest

from skillbank.runtime import has_implementation
from skillbank.skill_info import load_skill_info
from skillbank.specs import networks
from skillbank.specs.base import Network
from skillbank_models.protocol import Implementation
from skillbank_runners.actions import SHARED


def implemented() -> list[Network]:
    """Networks whose implementation can be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKILLBANK_NETWORKS", "toy_network")
        return [network for network in networks() if has_implementation(network)]


def test_the_toy_is_among_them() -> None:
    assert "toy" in {network.name for network in implemented()}


@pytest.mark.parametrize("network", implemented(), ids=lambda network: network.name)
def test_every_action_can_be_run(network: Network) -> None:
    found = importlib.import_module(network.impl).NETWORK
    assert isinstance(found, Implementation)
    offered = {*SHARED, *found.actions}
    assert set(network.actions) <= offered
    assert set(found.actions) <= set(network.actions)


@pytest.mark.parametrize("network", implemented(), ids=lambda network: network.name)
def test_memory_keys_are_spec_keys(network: Network) -> None:
    found = importlib.import_module(network.impl).NETWORK
    spec = network.actions["train"]().model_dump()
    for entry in found.memory_keys:
        value = spec
        for part in entry.partition("=")[0].split("."):
            value = value[part]


@pytest.mark.parametrize("network", implemented(), ids=lambda network: network.name)
def test_machine_facts_cover_the_actions(network: Network) -> None:
    assert set(network.actions) <= set(load_skill_info(network).actions)
