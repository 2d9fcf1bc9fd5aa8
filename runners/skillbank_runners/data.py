"""Loaders whose batches depend on seed, epoch and place alone, not on loader processes or a restart.

Every batch carries a seed of its own. It is set in the process that loads the batch, sample by sample, so
shuffling and augmentation are the same with any number of loader processes, and a run that is resumed in the
middle of an epoch goes on with the very next batch without loading the ones before it. The generators of the
training process are put back after each batch: what the data draws does not disturb what the model draws.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Sampler

from skillbank.errors import DataError
from skillbank_runners import randomness

__all__ = ["DataOrder", "EpochLoader", "arrange"]

log = logging.getLogger(__name__)

_STAGES = {
    "train_dataloader": "train",
    "val_dataloader": "val",
    "test_dataloader": "test",
    "predict_dataloader": "predict",
}


@dataclass(slots=True, kw_only=True)
class DataOrder:
    """What all loaders of one run share.

    Attributes:
        seed: of the run; a resumed run takes over the seed it was started with.
        even: every process gets the same number of evaluation batches too, some of them twice; needed where a
            forward pass waits for the other processes.
        done_before: batches, over all processes, that the resumed epoch had behind it.
        trainer: knows the epoch, once there is one.
    """

    seed: int
    rank: int = 0
    world: int = 1
    even: bool = False
    done_before: int = 0
    trainer: pl.Trainer | None = None

    @property
    def epoch(self) -> int:
        """The epoch that is being trained, from 0."""
        return self.trainer.current_epoch if self.trainer is not None else 0

    @property
    def batches_done(self) -> int:
        """Batches of an open epoch that went through the model, over all processes; 0 between epochs."""
        if self.trainer is None:
            return 0
        loop = self.trainer.fit_loop
        epochs: Any = loop.epoch_progress.current
        done = int(loop.epoch_loop.batch_progress.current.ready)
        is_open = epochs.started > epochs.processed and done < self.trainer.num_training_batches
        return done * self.world if is_open else 0


class _Ticket(NamedTuple):
    """What a sampler asks of the dataset, and the seed to draw it with."""

    key: Any
    seed: int


class _Drawn(list[Any]):
    """Samples of one batch, and the seed for putting them together."""

    seed: int = 0


class _SeededDataset(Dataset[Any]):
    """A dataset that is asked by tickets."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, ticket: _Ticket) -> Any:
        randomness.seed_cpu(ticket.seed)
        return self.dataset[ticket.key]

    def __getitems__(self, tickets: Sequence[_Ticket]) -> _Drawn:
        if hasattr(self.dataset, "__getitems__"):
            randomness.seed_cpu(tickets[0].seed)
            drawn = _Drawn(self.dataset.__getitems__([ticket.key for ticket in tickets]))
        else:
            drawn = _Drawn(self[ticket] for ticket in tickets)
        drawn.seed = randomness.derive(tickets[0].seed, "collate")
        return drawn


class _SeededCollate:
    """Puts samples together with the seed of their batch."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: Any) -> Any:
        if isinstance(samples, _Drawn):
            randomness.seed_cpu(samples.seed)
            return self.collate(list(samples))
        return self.collate(samples)


class _Tickets(Sampler[Any]):
    """The tickets of one pass, set anew before each."""

    def __init__(self) -> None:
        self.tickets: list[Any] = []

    def __len__(self) -> int:
        return len(self.tickets)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tickets)


class EpochLoader:
    """One loader of a data module, in the order that `DataOrder` gives.

    Args:
        loader: as the implementation built it.
        stage: ``train``, ``val``, ``test`` or ``predict``; only ``train`` changes from epoch to epoch.
        length: batches that make an epoch on this process, also more or fewer than one pass; None = one pass.
    """

    def __init__(
        self, loader: DataLoader[Any], order: DataOrder, stage: str, *, length: int | None = None
    ) -> None:
        self.loader = loader
        self.dataset = loader.dataset
        self.order = order
        self.stage = stage
        self._has_begun = False
        self._tickets = _Tickets()
        self._is_iterable = isinstance(loader.dataset, IterableDataset)
        self._source: Any = None if self._is_iterable else loader.batch_sampler or loader.sampler
        self._inner = self._rebuilt()
        self._pass_length = self._share_of(len(loader))
        self._length = self._pass_length if length is None else length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        # A generator on purpose: Lightning calls iter() once more than it reads, and nothing starts before
        # next().
        epoch = self.order.epoch if self.stage == "train" else 0
        done = 0
        if self.stage == "train" and not self._has_begun:
            self._has_begun = True
            done = min(-(-self.order.done_before // self.order.world), self._length)
        number, skip = divmod(done, self._pass_length)
        while done < self._length:
            seed = randomness.derive(self.order.seed, self.stage, epoch, number)
            aside = randomness.Aside(seed)
            with aside.active():
                batches = self._pass(epoch, seed, skip, self._length - done)
            before = done
            while True:
                with aside.active():
                    batch = next(batches, _END)
                if batch is _END:
                    break
                done += 1
                yield batch
            assert done > before, (
                f"the {self.stage} loader gave nothing although it has {self._pass_length} batches"
            )
            number, skip = number + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Tells Lightning that a run can be resumed inside an epoch; the place itself is in `DataOrder`.

        What Lightning keeps from here is lost when a module asks for the number of steps before the run is
        restored.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `state_dict`."""

    def _pass(self, epoch: int, seed: int, skip: int, most: int) -> Iterator[Any]:
        """The batches of one pass over the data, from `skip` on."""
        assert self._inner.generator is not None
        self._inner.generator.manual_seed(seed)
        if self._is_iterable:
            return itertools.islice(iter(self._inner), skip, skip + most)
        for part in (self._source, getattr(self._source, "sampler", None), self.dataset):
            begin = getattr(part, "set_epoch", None)
            if begin is not None:
                begin(epoch)
        asked = list(itertools.islice(iter(self._source), len(self._source)))
        places = self._places(len(asked))
        self._tickets.tickets = [
            self._ticketed(asked[place], randomness.derive(seed, place, self._own_rank)) for place in places
        ][skip : skip + most]
        return iter(self._inner)

    def _ticketed(self, keys: Any, seed: int) -> Any:
        if self.loader.batch_sampler is None:
            return _Ticket(keys, seed)
        return [_Ticket(key, randomness.derive(seed, number)) for number, key in enumerate(keys)]

    @property
    def _own_rank(self) -> int:
        """Tells equal places of processes apart where the sampler shares out by itself."""
        return self.order.rank if self._shards_itself else 0

    @property
    def _shards_itself(self) -> bool:
        parts = (self._source, getattr(self._source, "sampler", None), self.dataset)
        return any(
            isinstance(part, DistributedSampler) or getattr(part, "shards_itself", False) for part in parts
        )

    def _places(self, count: int) -> list[int]:
        """Which batches of a pass this process takes."""
        if self.order.world == 1 or self._shards_itself:
            return list(range(count))
        own = list(range(self.order.rank, count, self.order.world))
        if self.stage == "train" or self.order.even:
            wanted = -(-count // self.order.world)
            own += [(self.order.rank + extra) % count for extra in range(wanted - len(own))]
        return own

    def _share_of(self, count: int) -> int:
        """Batches of one pass on this process."""
        if count == 0:
            raise DataError(
                f"the {self.stage} data gives no batch",
                hint="check the data files, and that the batch size is not above the number of samples",
            )
        if self.order.world > 1 and not self._shards_itself:
            if self._is_iterable:
                raise TypeError(
                    f"{type(self.dataset).__name__} must share out its data and set shards_itself"
                )
            if count < self.order.world:
                raise DataError(
                    f"the {self.stage} data gives {count} batch{'es' if count > 1 else ''}, fewer than the "
                    f"{self.order.world} processes that share them",
                    hint="use fewer GPUs or a smaller batch",
                )
        return len(self._places(count)) if not self._is_iterable else count

    def _rebuilt(self) -> DataLoader[Any]:
        """The same loader, asked by tickets."""
        loader = self.loader
        given: dict[str, Any] = {
            "num_workers": loader.num_workers,
            "collate_fn": _SeededCollate(loader.collate_fn),
            # without a GPU there is nothing to pin for, and torch warns about it
            "pin_memory": loader.pin_memory and torch.cuda.is_available(),
            "timeout": loader.timeout,
            "worker_init_fn": loader.worker_init_fn,
            "generator": torch.Generator(),
        }
        if loader.num_workers > 0:
            given["prefetch_factor"] = loader.prefetch_factor
            given["persistent_workers"] = loader.persistent_workers
            given["multiprocessing_context"] = loader.multiprocessing_context
        if self._is_iterable:
            return DataLoader(
                loader.dataset, batch_size=loader.batch_size, drop_last=loader.drop_last, **given
            )
        dataset = _SeededDataset(loader.dataset)
        if loader.batch_sampler is None:
            return DataLoader(dataset, batch_size=None, sampler=self._tickets, **given)
        return DataLoader(dataset, batch_sampler=self._tickets, **given)


_END = object()


def arrange(data: pl.LightningDataModule, order: DataOrder, *, train_length: int | None = None) -> None:
    """Make all loaders of a data module follow `order`, in place.

    Args:
        train_length: batches of a training epoch on each process; None = one pass over the data.
    """
    for name, stage in _STAGES.items():
        if is_overridden(name, data, pl.LightningDataModule):
            length = train_length if stage == "train" else None
            setattr(data, name, _arranged(getattr(data, name), order, stage, length))


def _arranged(
    build: Callable[[], Any], order: DataOrder, stage: str, length: int | None
) -> Callable[[], Any]:
    def wrap(found: Any) -> Any:
        if isinstance(found, DataLoader):
            return EpochLoader(found, order, stage, length=length)
        if isinstance(found, dict):
            return {key: wrap(item) for key, item in found.items()}
        if isinstance(found, list | tuple):
            return [wrap(item) for item in found]
        return found

    @functools.wraps(build)
    def loaders() -> Any:
        return wrap(build())

    return loaders
