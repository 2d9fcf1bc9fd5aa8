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

__all__ = ["capture", "derive", "draw_seed", "preserved", "restore", "seed_cpu", "seed_everything"]

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


@contextmanager
def preserved() -> Iterator[None]:
    """Undo what the body draws from, or does to, the CPU generators."""
    python, numpy, cpu = random.getstate(), np.random.get_state(legacy=True), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
