"""Weights against Hugging Face: names on disk and in memory, files that transformers loads, same outputs.

Source of the reference: transformers 5 `Mask2FormerForUniversalSegmentation`, run as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mask2former_pairs import SMALL, model_spec, random_hf
from torch import Tensor

from skillbank_models.mask2former.model import build_model
from skillbank_models.mask2former.weights import (
    WEIGHT_FORMATS,
    describe,
    from_own,
    settings_of_hf,
    to_own,
)
from skillbank_models.weights.files import read_tensors

SETTINGS: dict[str, dict[str, Any]] = {
    "widths differ": {},
    "one width, stride 8, pre-norm": {
        "mask_former.hidden_dim": 64, "sem_seg_head.convs_dim": 64, "sem_seg_head.common_stride": 8,
        "mask_former.pre_norm": True, "sem_seg_head.num_classes": 1,
    },
}  # fmt: skip


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module", params=list(SETTINGS))
def theirs(request: pytest.FixtureRequest) -> Any:
    return random_hf(model_spec({**SMALL, **SETTINGS[request.param]}), seed=5, spread=0.5)


def test_both_spellings_give_the_same_and_nothing_is_left(theirs: Any, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path / "hf")
    on_disk = read_tensors(tmp_path / "hf", key="k")
    in_memory = theirs.state_dict()
    assert on_disk.tensors.keys() != in_memory.keys()
    own = to_own(on_disk.tensors)
    assert same(own, to_own(in_memory))
    settings = {**settings_of_hf(on_disk.config), **describe(own)}
    spec = model_spec({key.removeprefix("model."): value for key, value in settings.items()})
    with torch.device("meta"):
        model = build_model(spec, activation_checkpoint=False)
    model.load_state_dict(own, strict=True, assign=True)


def test_transformers_loads_what_is_written(theirs: Any, tmp_path: Path) -> None:
    from transformers import Mask2FormerForUniversalSegmentation

    theirs.save_pretrained(tmp_path / "hf")
    assert WEIGHT_FORMATS.inspect(read_tensors(tmp_path / "hf", key="k"))["layout"] == "hf"  # type: ignore[index]
    # the configuration has to come back out of the tensors, but for what they cannot tell
    way = [("hf", "a.pkl", "detectron2"), ("a.pkl", "b.pth", "tao"), ("b.pth", "c.pth", "own")]
    given = {
        "model.mask_former.pre_norm": theirs.config.pre_norm,
        "model.backbone.swin.pretrain_img_size": theirs.config.backbone_config.image_size,
    }
    for source, target, layout in [*way, ("c.pth", "again", "hf")]:
        found = read_tensors(tmp_path / source, key="k")
        WEIGHT_FORMATS.convert(found, tmp_path / target, layout, given)
    loaded, info = Mask2FormerForUniversalSegmentation.from_pretrained(
        tmp_path / "again", output_loading_info=True
    )
    assert not any(info.values()), info
    expected = theirs.state_dict()
    found = loaded.state_dict()
    unused = "model.pixel_level_module.encoder.swin.layernorm."
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == [
        f"{unused}weight",
        f"{unused}bias",
    ]
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    loaded.eval()
    with torch.no_grad():
        first, second = theirs(images), loaded(images)
    assert torch.equal(first.class_queries_logits, second.class_queries_logits)
    assert torch.equal(first.masks_queries_logits, second.masks_queries_logits)
    # what decides about the numbers stands in the configuration as it did
    wanted, got = theirs.config.to_dict(), loaded.config.to_dict()
    for name in (
        "pre_norm",
        "num_attention_heads",
        "encoder_feedforward_dim",
        "common_stride",
        "num_queries",
    ):
        assert got[name] == wanted[name], name
    for name in ("window_size", "depths", "num_heads", "image_size", "mlp_ratio", "qkv_bias"):
        assert got["backbone_config"][name] == wanted["backbone_config"][name], name


def test_a_bare_model_without_its_head(theirs: Any) -> None:
    own = to_own(theirs.state_dict())
    bare = to_own(theirs.model.state_dict())
    left = {name for name in own if name not in bare}
    assert left == {f"sem_seg_head.predictor.class_embed.{kind}" for kind in ("weight", "bias")}
    assert same({**bare, **{name: own[name] for name in left}}, own)


def test_a_wrong_rule_shows(theirs: Any, tmp_path: Path) -> None:
    """The comparisons above can fail: swapped tensors do not come back the same."""
    own = to_own(theirs.state_dict())
    first, second = (f"sem_seg_head.predictor.mask_embed.layers.{index}.weight" for index in (0, 1))
    swapped = {**own, first: own[second], second: own[first]}
    assert not same(to_own(from_own(swapped, "hf")), own)
    assert not same(from_own(swapped, "hf"), from_own(own, "hf"))
