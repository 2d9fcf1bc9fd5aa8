"""Records packed into one buffer equal the plain ones, and loader processes share them."""

from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch

from skillbank_models.data.annotations import PackedRecords, Record, stored
from skillbank_models.data.categories import Categories
from skillbank_models.data.coco_instance import InstanceReader
from skillbank_models.data.coco_panoptic import PanopticReader


def records(shapes: Path, classes: Categories) -> list[Record]:
    panoptic = PanopticReader(
        annotations=shapes / "annotations_panoptic.json",
        mask_folder=shapes / "images_panoptic",
        categories=classes,
    )
    return (
        panoptic.records()
        + InstanceReader(annotations=shapes / "annotations.json", categories=classes).records()
        + [Record("Ünïcode \u2028.jpg", "a/b.jpg", 0, 0, "", [])]
    )


def test_packed_equals_plain(shapes: Path, classes: Categories) -> None:
    plain = records(shapes, classes)
    packed = stored(plain, "serialized")
    assert isinstance(packed, PackedRecords)
    assert stored(plain, "default") is plain
    assert len(packed) == len(plain) == 17
    assert list(packed) == plain
    assert packed[-1] == plain[-1]
    assert list(packed[2:5]) == plain[2:5]
    for outside in (17, -18):
        with pytest.raises(IndexError):
            packed[outside]


def test_packed_records_are_one_buffer_that_processes_share(shapes: Path, classes: Categories) -> None:
    """A process gets a handle of the buffer; of plain records it gets a copy."""
    plain = records(shapes, classes) * 50
    packed = PackedRecords(plain)
    assert all(isinstance(part, torch.Tensor) for part in vars(packed).values())
    assert packed.num_bytes > 100_000
    assert len(ForkingPickler.dumps(packed)) < 2_000
    assert all(part.is_shared() for part in vars(packed).values())
    assert len(ForkingPickler.dumps(plain)) > 5_000


def test_nothing_is_a_legal_number_of_records() -> None:
    assert list(PackedRecords([])) == []
