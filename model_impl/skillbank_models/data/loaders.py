"""Loaders of image data, with the settings that splits share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

__all__ = ["build_loader", "world_size"]

Item = TypeVar("Item")
Batch = TypeVar("Batch")


def build_loader(
    dataset: Dataset[Item],
    *,
    collate: Callable[[Sequence[Item]], Batch],
    batch_size: int,
    workers: int,
    pin_memory: bool,
    train: bool,
    own_share: bool,
) -> DataLoader[Batch]:
    """A loader.

    Args:
        collate: samples -> batch.
        train: shuffle, and drop a last batch that is not full, unless too few batches would be left.
        own_share: every process draws from its own share of the images, by torch's distributed sampler;
            otherwise the batches of one common order are dealt out to the processes from outside.
    """
    count = len(dataset)  # type: ignore[arg-type]
    world = world_size()
    sampler: DistributedSampler[Item] | None = None
    if train and own_share:
        sampler = DistributedSampler(dataset, world, _rank()) if world > 1 else None
        full = -(-count // world) // batch_size
        enough = full >= 1
    else:
        enough = count // batch_size >= world
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=batch_size,
        shuffle=train and sampler is None,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory and torch.cuda.is_available(),  # torch warns where there is nothing to pin for
        drop_last=train and enough,
        persistent_workers=workers > 0,
        worker_init_fn=_begin_worker,
    )


def world_size() -> int:
    """How many processes work together; 1 before they are connected."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    import torch.distributed as dist

    return dist.get_rank()


def _begin_worker(worker: int) -> None:
    # a loader process has one core to itself, and OpenCV's threads do not survive a fork
    cv2.setNumThreads(0)
