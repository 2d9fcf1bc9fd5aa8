"""Networks and their specs; modules of this package that define `NETWORK` are found by themselves.

Networks from elsewhere join through the environment variable ``SKILLBANK_NETWORKS``: import names, separated
by commas, of modules that define `NETWORK`. One with the name of a bundled network takes its place.
"""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
from functools import cache
from typing import TYPE_CHECKING

from skillbank.errors import NotFoundError, UsageError

if TYPE_CHECKING:  # names of networks are asked for where pydantic would cost most of the time
    from skillbank.specs.base import ActionSpec, Network

__all__ = ["network", "network_names", "networks", "spec_class"]

log = logging.getLogger(__name__)

_NOT_NETWORKS = frozenset({"base", "common", "load"})


def _bundled_names() -> list[str]:
    names = (info.name for info in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if name not in _NOT_NETWORKS and not name.startswith("_"))


def _outside() -> dict[str, Network]:
    """Networks named by the environment, by their name."""
    found: dict[str, Network] = {}
    for module_name in filter(
        None, (part.strip() for part in os.environ.get("SKILLBANK_NETWORKS", "").split(","))
    ):
        try:
            candidate = importlib.import_module(module_name).NETWORK
        except (ImportError, AttributeError) as err:
            raise UsageError(
                f"SKILLBANK_NETWORKS names {module_name!r}, which cannot be used: {err}",
                hint="list importable modules that define NETWORK, or unset the variable",
                key="SKILLBANK_NETWORKS",
                value=module_name,
            ) from err
        found[candidate.name] = candidate
    return found


def network_names() -> list[str]:
    """Names of all networks, sorted; imports no bundled network module."""
    return sorted({*_bundled_names(), *_outside()})


@cache
def _bundled(name: str) -> Network:
    module = importlib.import_module(f"{__name__}.{name}")
    found: Network = module.NETWORK
    return found


def network(name: str) -> Network:
    """The network of that name.

    Raises:
        NotFoundError: no such network; the message lists those there are.
    """
    outside = _outside()
    if name in outside:
        return outside[name]
    if name in _bundled_names():
        return _bundled(name)
    raise NotFoundError(
        f"there is no network {name!r}; known are {', '.join(network_names())}",
        hint="skillbank networks",
        key="network",
        value=name,
        allowed=network_names(),
    )


def networks() -> list[Network]:
    """All networks, sorted by name."""
    return [network(name) for name in network_names()]


def spec_class(network_name: str, action: str) -> type[ActionSpec]:
    """The spec class of a network's action.

    Raises:
        NotFoundError: no such network, or the network has no such action.
    """
    found = network(network_name)
    if action not in found.actions:
        raise NotFoundError(
            f"{network_name} has no action {action!r}; it has {', '.join(found.actions)}",
            hint=f"tao {network_name} --help",
            key="action",
            value=action,
            allowed=list(found.actions),
        )
    return found.actions[action]
