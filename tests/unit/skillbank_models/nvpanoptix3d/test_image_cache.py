"""2D outputs on disk: kept once, made again when they are damaged or an image has changed."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scene_cases import tiny_spec
from torch import Tensor, nn

from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.nvpanoptix3d import image_cache
from skillbank_models.nvpanoptix3d.image_cache import ImageCache, fingerprint
from skillbank_models.nvpanoptix3d.outputs import ImageOutput


class Counting(nn.Module):
    """A 2D part that counts how often it runs; its outputs tell the images apart."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 2)
        self.runs = 0

    def forward(self, images: Tensor, *, all_layers: bool, sizes: Any) -> ImageOutput:
        assert not all_layers
        self.runs += 1
        count = len(images)
        number = images[:, 0, 0, 0]  # (B,)

        def of(*shape: int) -> Tensor:
            return number.reshape(count, *[1] * len(shape)).expand(count, *shape)

        return ImageOutput(
            predictions=MaskPredictions(of(3, 4)[None], of(3, 2)[None], of(2, 4, 4)),
            queries=of(3, 2), depth=of(4, 4), depth_features=of(2, 4, 4), pose=of(9),
            occupancy=of(5, 4, 4), levels=[of(2, 1, 1), of(2, 2, 2), of(2, 4, 4)],
        )  # fmt: skip


@pytest.fixture
def batch(tmp_path: Path) -> Any:
    names = []
    for number in (1, 2):
        path = tmp_path / f"{number}.png"
        path.write_text("picture")
        names.append(str(path))
    images = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1).expand(2, 3, 8, 8)
    return SimpleNamespace(images=images, sizes=[(8, 8), (8, 6)], file_names=names)


@pytest.fixture
def model() -> Counting:
    return Counting()


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_second_time_the_network_does_not_run(batch: Any, model: Counting, tmp_path: Path) -> None:
    cache = ImageCache(tmp_path / "kept", "", with_levels=True)
    made, kept = cache.outputs(batch, model), cache.outputs(batch, model)
    assert model.runs == 1
    assert torch.equal(made.predictions.class_logits, kept.predictions.class_logits)
    assert torch.equal(made.levels[1], kept.levels[1])
    assert [path.suffix for path in files(tmp_path / "kept")] == [".pt", ".pt"]


@pytest.mark.parametrize("content", [b"", b"\x80\x02garbage", b"PK\x03\x04"])
def test_a_damaged_file_is_made_again(
    content: bytes, batch: Any, model: Counting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ImageCache(tmp_path / "kept", "", with_levels=True)
    cache.outputs(batch, model)
    files(tmp_path / "kept")[0].write_bytes(content)
    found = cache.outputs(batch, model)
    assert model.runs == 2
    assert found.queries[:, 0, 0].tolist() == [1.0, 2.0]
    assert "is damaged and is made again" in caplog.text
    cache.outputs(batch, model)
    assert model.runs == 2


def test_what_changes_the_outputs_is_another_entry(batch: Any, model: Counting, tmp_path: Path) -> None:
    cache = ImageCache(tmp_path / "kept", "", with_levels=True)
    cache.outputs(batch, model)
    batch.sizes[0] = (8, 7)  # other content in a padded image of the same size
    cache.outputs(batch, model)
    assert model.runs == 2
    os.utime(batch.file_names[1], ns=(1, 1))
    cache.outputs(batch, model)
    assert model.runs == 3
    assert fingerprint(model, "depth_features: fine") != fingerprint(model, "depth_features: coarse")


def test_settings_that_do_not_change_the_outputs_keep_the_entries(tmp_path: Path, model: Counting) -> None:
    def mark(**changes: Any) -> str:
        cache = ImageCache.of(tiny_spec(dataset__cache_dir=str(tmp_path), **changes))
        assert cache is not None
        return fingerprint(model, cache._settings)

    assert mark() == mark(model__frustum3d__surface_weight=9.0)
    assert mark() != mark(dataset__reduced_target_size=[40, 30], dataset__depth_size=[30, 40])
    assert mark() != mark(model__compat__depth_features="coarse")
    assert mark() != mark(model__frustum3d__use_multi_scale=True)


def test_every_epoch_sees_the_same_numbers(batch: Any, model: Counting, tmp_path: Path) -> None:
    batch.images = batch.images * 1.0001  # not exact in 16 bits
    cache = ImageCache(tmp_path / "kept", "", with_levels=False)
    first, second = cache.outputs(batch, model), cache.outputs(batch, model)
    assert model.runs == 1
    assert torch.equal(first.predictions.mask_features, second.predictions.mask_features)
    assert first.predictions.mask_features[0, 0, 0, 0] != batch.images[0, 0, 0, 0]
    assert first.depth[0, 0, 0] == batch.images[0, 0, 0, 0]
    assert first.levels == second.levels == []


def test_numbers_beyond_16_bits_stay_whole(batch: Any, model: Counting, tmp_path: Path) -> None:
    batch.images = batch.images * 1e6
    cache = ImageCache(tmp_path / "kept", "", with_levels=True)
    cache.outputs(batch, model)
    assert cache.outputs(batch, model).depth_features[1, 0, 0, 0] == 2e6


def test_a_folder_that_cannot_be_written(
    batch: Any, model: Counting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Training goes on without it, and says so once."""
    (tmp_path / "kept").write_text("a file, no folder")
    image_cache._tell.cache_clear()
    cache = ImageCache(tmp_path / "kept", "", with_levels=True)
    for _ in range(2):
        assert cache.outputs(batch, model).queries[:, 0, 0].tolist() == [1.0, 2.0]
    assert model.runs == 2
    assert caplog.text.count("no 2D outputs can be kept") == 1
