"""Whether the heavy parts that a job needs are there; asked by name only, nothing is imported."""

from __future__ import annotations

from importlib.util import find_spec

from skillbank.errors import NotInThisVersionError, RuntimeMissingError
from skillbank.specs.base import Network

__all__ = ["has_implementation", "is_installed", "require_runtime"]

_INSTALL = "pip install -c constraints.txt 'skillbank[{extra}]'"


def is_installed(module: str) -> bool:
    """Whether a module could be imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a package above it is not there
        return False


def has_implementation(network: Network) -> bool:
    """Whether this version ships the network itself, not only its specs and playbook."""
    return is_installed(network.impl)


def require_runtime(network: Network, *, route: str = "direct", action: str = "") -> None:
    """Refuse a job that could not run here.

    Args:
        route: ``automl`` needs the search engine too.
        action: ``gen_trt_engine`` needs TensorRT too.

    Raises:
        NotInThisVersionError: the network itself is not there, whatever is installed.
        RuntimeMissingError: names what is missing and how to get it.
    """
    if not has_implementation(network):
        raise NotInThisVersionError(
            f"this version has no implementation of {network.name} yet; there is nothing to install",
            hint="--dry-run shows the plan; specs, schemas and playbooks are complete",
            key=network.impl,
        )
    if not is_installed("torch"):
        raise RuntimeMissingError(
            f"running {network.name} needs PyTorch, which is not installed",
            hint=f"{_INSTALL.format(extra='runtime')}; --dry-run shows the plan without it",
            key="torch",
        )
    if route == "automl" and not is_installed("optuna"):
        raise RuntimeMissingError(
            "a search needs Optuna, which is not installed",
            hint=f"{_INSTALL.format(extra='automl')}, or train directly with policy off",
            key="optuna",
        )
    if action == "gen_trt_engine" and not is_installed("tensorrt"):
        raise RuntimeMissingError(
            "building an engine needs TensorRT, which is not installed",
            hint=f"{_INSTALL.format(extra='trt')} on a machine with an NVIDIA GPU",
            key="tensorrt",
        )
