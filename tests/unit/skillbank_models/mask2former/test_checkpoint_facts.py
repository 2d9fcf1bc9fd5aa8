"""What a checkpoint says of itself: settings without a shape, and classes."""

from pathlib import Path

import pytest
import torch
from shapes_data import mask2former_spec

from skillbank.errors import InvalidValueError
from skillbank_models.data.categories import Categories, Category
from skillbank_models.mask2former.shapeless import SHAPELESS
from skillbank_models.weights.checkpoint_facts import stored_categories
from skillbank_models.weights.files import FACTS, read_tensors

CLASSES = Categories((Category(3, "cat", (1, 2, 3), True), None, Category(9, "sky", (4, 5, 6), False)))


def write(path: Path) -> Path:
    spec = mask2former_spec({})
    content = {"state_dict": {"model.x": torch.zeros(1)}, FACTS: SHAPELESS.of(spec, CLASSES)}
    torch.save(content, path)
    return path


def test_classes_come_back(tmp_path: Path) -> None:
    assert stored_categories(write(tmp_path / "a.pth"), "inference.checkpoint") == CLASSES


def test_files_of_others_tell_nothing(tmp_path: Path) -> None:
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "b.pth")
    assert stored_categories(tmp_path / "b.pth", "k") is None
    assert SHAPELESS.read(read_tensors(tmp_path / "b.pth", key="k").marks) == {}


def test_a_setting_that_no_tensor_tells_is_compared(tmp_path: Path) -> None:
    marks = read_tensors(write(tmp_path / "a.pth"), key="k").marks
    spec = mask2former_spec({})
    SHAPELESS.check(marks, spec, tmp_path, "evaluate.checkpoint")
    other = dict(marks)
    other[FACTS] = {"settings": {**SHAPELESS.read(marks), "model.mask_former.pre_norm": True}}
    with pytest.raises(InvalidValueError, match=r"was trained with model\.mask_former\.pre_norm=True"):
        SHAPELESS.check(other, spec, tmp_path, "evaluate.checkpoint")
