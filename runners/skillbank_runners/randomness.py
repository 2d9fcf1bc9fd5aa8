"""The random generators of a process: seeded, saved, put back, so that resumed runs draw as unbroken ones."""

from __future__ import annotations

import hashlib
import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["Aside", "capture", "derive", "draw_seed", "restore", "seed_cpu", "seed_everything"]

_NUMPY_SEEDS = 2**32


def draw_seed() -> int:
    """A seed for a run that asked for none."""
    return secrets.randbits(31)


def derive(seed: int, *parts: object) -> int:
    """A seed of 63 bits that depends on `seed` and all parts, and is the same in every process."""
    text = "/".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_cpu(seed: int) -> None:
    """Seed the generators that data code draws from: Python, numpy and torch on the CPU."""
    random.seed(seed)
    np.random.seed(seed % _NUMPY_SEEDS)
    # not torch.manual_seed: that one also queues work for CUDA, at every call
    torch.default_generator.manual_seed(seed)


def seed_everything(seed: int) -> None:
    """Seed the generators of this process on all devices."""
    seed_cpu(seed)
    torch.cuda.manual_seed_all(seed)


def capture() -> dict[str, Any]:
    """State of all generators as tensors and plain values, which load without running code."""
    version, words, gauss = random.getstate()
    state = np.random.get_state(legacy=False)
    assert isinstance(state, dict)
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "kind": state["bit_generator"],
            "key": torch.from_numpy(state["state"]["key"].astype(np.int64)),
            "pos": int(state["state"]["pos"]),
            "has_gauss": int(state["has_gauss"]),
            "gauss": float(state["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if on_gpu else None,
    }


def restore(state: dict[str, Any]) -> None:
    """Put back what `capture` gave; a CUDA state is left out on a machine without a GPU."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    key = numpy["key"].numpy().astype(np.uint32)
    np.random.set_state((numpy["kind"], key, numpy["pos"], numpy["has_gauss"], numpy["gauss"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class Aside:
    """CPU generators of their own for some work; those of the process do not notice it.

    Args:
        seed: what the work starts with.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._own: tuple[Any, Any, torch.Tensor] | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draw from the own generators inside the block, going on where the last block ended."""
        outside = _cpu_states()
        if self._own is None:
            seed_cpu(self._seed)
        else:
            _set_cpu_states(self._own)
        try:
            yield
        finally:
            self._own = _cpu_states()
            _set_cpu_states(outside)


def _cpu_states() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(legacy=True), torch.get_rng_state()


def _set_cpu_states(states: tuple[Any, Any, torch.Tensor]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
