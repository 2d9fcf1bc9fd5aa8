"""Order, augmentation and shares depend on seed, epoch and place alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from skillbank.errors import DataError
from skillbank_runners import randomness
from skillbank_runners.data import DataOrder, EpochLoader, arrange


class Noisy(Dataset[tuple[int, float, float]]):
    """Numbers with noise of two generators; counts how often it is asked."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[int, float, float]:
        self.asked += 1
        return index, float(torch.rand(())), float(np.random.rand())


def plain(samples: list[Any]) -> list[Any]:
    """Puts a number drawn per batch in front."""
    return [round(float(torch.rand(())), 6), *samples]


def loader(count: int = 10, *, batch: int = 3, workers: int = 0, **more: Any) -> DataLoader[Any]:
    return DataLoader(
        Noisy(count), batch_size=batch, shuffle=True, num_workers=workers, collate_fn=plain, **more
    )


def batches(order: DataOrder, stage: str = "train", **more: Any) -> list[Any]:
    return list(EpochLoader(loader(**more), order, stage))


class At(DataOrder):
    """An order at a fixed epoch."""

    at = 0

    @property
    def epoch(self) -> int:
        return self.at


def order_at(epoch: int, seed: int = 5, **more: Any) -> DataOrder:
    order = At(seed=seed, **more)
    order.at = epoch
    return order


def numbers(found: list[Any]) -> list[int]:
    return [sample[0] for batch in found for sample in batch[1:]]


def test_an_epoch_is_a_function_of_seed_and_epoch_whatever_was_drawn_before() -> None:
    first = batches(order_at(0))
    torch.rand(100)
    assert batches(order_at(0)) == first
    assert sorted(numbers(first)) == list(range(10))
    assert numbers(batches(order_at(1))) != numbers(first)
    assert numbers(batches(order_at(0, seed=6))) != numbers(first)


def test_loader_processes_change_nothing() -> None:
    assert batches(order_at(2), workers=2) == batches(order_at(2), workers=0)


def test_persistent_loader_processes_follow_the_epoch() -> None:
    order = order_at(0)
    found = EpochLoader(loader(workers=1, persistent_workers=True), order, "train")
    epochs = []
    for order.at in (0, 1):
        epochs.append(list(found))
    assert epochs == [batches(order_at(0)), batches(order_at(1))]


def test_the_generators_of_the_model_do_not_notice() -> None:
    torch.manual_seed(3)
    expected = [float(torch.rand(())) for _ in range(4)]
    torch.manual_seed(3)
    assert [float(torch.rand(())) for _ in EpochLoader(loader(), order_at(0), "train")] == expected


def test_a_resumed_epoch_goes_on_behind_the_done_batches_without_loading_them() -> None:
    whole = batches(order_at(4))
    source = loader()
    found = EpochLoader(source, order_at(4, done_before=2), "train")
    assert list(found) == whole[2:]
    assert source.dataset.asked == len(numbers(whole[2:]))
    assert list(found) == whole  # only the first pass is shortened


def test_two_processes_share_an_epoch_and_get_the_same_number_of_batches() -> None:
    alone = batches(order_at(1), count=10, batch=2)  # 5 batches
    shares = [batches(order_at(1, rank=rank, world=2), count=10, batch=2) for rank in (0, 1)]
    assert [len(share) for share in shares] == [3, 3]
    assert [numbers([batch]) for batch in shares[0]] == [numbers([batch]) for batch in alone[0::2]]
    assert numbers(shares[1])[:4] == numbers(alone[1::2])
    assert set(numbers(shares[0])) | set(numbers(shares[1])) == set(range(10))


def test_evaluation_counts_every_sample_once() -> None:
    shares = [batches(order_at(0, rank=rank, world=2), "val", count=10, batch=2) for rank in (0, 1)]
    assert [len(share) for share in shares] == [3, 2]
    assert sorted(numbers(shares[0]) + numbers(shares[1])) == list(range(10))


def test_evaluation_can_be_made_even_where_processes_wait_for_each_other() -> None:
    shares = [
        batches(order_at(0, rank=rank, world=2, even=True), "val", count=10, batch=2) for rank in (0, 1)
    ]
    assert [len(share) for share in shares] == [3, 3]


def test_validation_is_the_same_every_time() -> None:
    assert batches(order_at(0), "val") == batches(order_at(3), "val")


@pytest.mark.parametrize(("length", "passes"), [(2, 1), (4, 1), (6, 2), (9, 3)])
def test_an_epoch_may_have_another_length_than_the_data(length: int, passes: int) -> None:
    found = EpochLoader(loader(), order_at(0), "train", length=length)
    assert len(found) == length
    seen = list(found)
    assert len(seen) == length
    assert seen[:4] == batches(order_at(0))[: len(seen[:4])]
    if passes > 1:
        assert numbers(seen[4:8]) != numbers(seen[:4])[: len(numbers(seen[4:8]))]


def test_a_sampler_that_shares_out_itself_is_left_alone() -> None:
    class Own(Sampler[int]):
        shards_itself = True
        began: list[int] = []

        def __len__(self) -> int:
            return 4

        def __iter__(self) -> Iterator[int]:
            return iter([7, 8, 9, int(torch.randint(5, (1,)))])

        def set_epoch(self, epoch: int) -> None:
            self.began.append(epoch)

    def made() -> DataLoader[Any]:
        return DataLoader(Noisy(10), batch_size=2, sampler=Own(), collate_fn=plain)

    found = list(EpochLoader(made(), order_at(3, rank=1, world=2), "train"))
    assert numbers(found)[:3] == [7, 8, 9]
    assert Own.began == [3]
    assert found == list(EpochLoader(made(), order_at(3, rank=1, world=2), "train"))


def test_a_sampler_that_never_ends_gives_as_many_batches_as_it_says() -> None:
    class Endless(Sampler[list[int]]):
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Iterator[list[int]]:
            while True:
                yield torch.randint(10, (2,)).tolist()

    made = DataLoader(Noisy(10), batch_sampler=Endless(), collate_fn=plain)
    first = list(EpochLoader(made, order_at(0), "train"))
    assert len(first) == 3
    assert list(EpochLoader(made, order_at(0), "train")) == first


def test_a_stream_is_skipped_batch_by_batch() -> None:
    class Stream(IterableDataset[float]):
        def __len__(self) -> int:
            return 6

        def __iter__(self) -> Iterator[float]:
            for number in range(6):
                yield number + float(torch.rand(()))

    def made(**more: Any) -> EpochLoader:
        return EpochLoader(DataLoader(Stream(), batch_size=2), order_at(1, **more), "train")

    whole = [batch.tolist() for batch in made()]
    resumed = made(done_before=1)
    assert [batch.tolist() for batch in resumed] == whole[1:]
    with pytest.raises(TypeError, match="Stream must share out its data"):
        EpochLoader(DataLoader(Stream(), batch_size=2), order_at(0, world=2), "train")


def test_data_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(DataError, match="val data gives 1 batch, fewer than the 2 processes") as found:
        EpochLoader(loader(count=2), order_at(0, world=2), "val")
    assert "fewer GPUs" in found.value.hint
    with pytest.raises(DataError, match="train data gives no batch"):
        EpochLoader(loader(count=2, drop_last=True), order_at(0), "train")


def test_all_loaders_of_a_data_module_follow_the_order() -> None:
    class Two(pl.LightningDataModule):
        def train_dataloader(self) -> DataLoader[Any]:
            return loader()

        def val_dataloader(self) -> list[DataLoader[Any]]:
            return [loader(), loader(count=4)]

    data = Two()
    arrange(data, DataOrder(seed=5), train_length=7)
    train, val = data.train_dataloader(), data.val_dataloader()
    assert isinstance(train, EpochLoader)
    assert len(train) == 7
    assert [len(part) for part in val] == [4, 2]
    assert all(isinstance(part, EpochLoader) for part in val)


def test_a_batch_is_seeded_by_its_place_and_not_by_its_samples() -> None:
    same_place = {seed: batches(order_at(0, seed=seed))[1][0] for seed in (1, 2)}
    assert same_place[1] != same_place[2]
    assert randomness.derive(1) != randomness.derive(2)
