"""`skillbank weights`: what a file is, the same weights for another program, and what is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mask2former_pairs import SMALL, model_spec
from torch import Tensor

from skillbank_models.mask2former.model import build_model
from skillbank_models.mask2former.weights import from_own, to_own
from skillbank_models.weights.files import read_tensors


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    with torch.device("meta"):
        state = build_model(model_spec(SMALL), activation_checkpoint=False).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}


@pytest.fixture
def source(tensors: dict[str, Tensor], tmp_path: Path) -> Path:
    torch.save({"model": {**from_own(tensors, "detectron2"), "extra": torch.ones(1)}}, tmp_path / "model.pth")
    return tmp_path / "model.pth"


def test_inspect(cli: Callable, source: Path, tensors: dict[str, Tensor]) -> None:
    found = cli("skillbank", "weights", "inspect", str(source))
    assert found.code == 0
    record = found.json()
    assert (record["network"], record["layout"], record["kind"]) == ("mask2former", "detectron2", "torch")
    assert record["tensors"] == len(tensors) + 6  # five position indices and one that is unknown
    assert record["dtypes"] == ["float32", "int64"]
    assert record["settings"]["model.sem_seg_head.num_classes"] == 7
    people = cli("skillbank", "weights", "inspect", str(source), "-o", "table").out
    assert "model.backbone.swin.depths" in people


def test_inspect_a_file_of_nobody(cli: Callable, tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.ones(2, 2)}, tmp_path / "x.pth")
    found = cli("skillbank", "weights", "inspect", str(tmp_path / "x.pth"))
    assert found.code == 0
    assert found.json()["network"] is None
    assert found.json()["parameters"] == 4
    assert "no network here has weights of these names: conv.weight" in found.err


def test_there_and_back(cli: Callable, source: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps([{"id": index + 1, "name": f"thing {index}"} for index in range(7)]))
    way = [
        ("model.pth", "a.pkl", "detectron2", []),
        ("a.pkl", "b.pth", "tao", ["--to", "tao"]),
        ("b.pth", "c", "hf", [f"dataset.label_map={labels}"]),
        ("c", "d.safetensors", "hf", ["--network", "mask2former"]),
        ("d.safetensors", "e.pth", "own", []),
    ]
    for number, (start, end, layout, more) in enumerate(way):
        found = cli("skillbank", "weights", "convert", str(tmp_path / start), str(tmp_path / end), *more)
        assert found.code == 0, found.err
        report = found.json()
        assert (report["to"], report["matched"], report["missing"]) == (layout, len(tensors), 0)
        assert report["unexpected"] == (["extra"] if number == 0 else [])
        assert f"wrote {tmp_path / end}: {len(tensors)} tensors matched" in found.err
        assert ("left out 1 tensors: extra" in found.err) == (number == 0)
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config["id2label"]["6"] == "thing 6"
    sizes = json.loads((tmp_path / "c" / "preprocessor_config.json").read_text())
    assert sizes["size"] == {"shortest_edge": 640, "longest_edge": 640}
    last = read_tensors(tmp_path / "e.pth", key="k")
    own = to_own(last.tensors, marks=last.marks)
    assert own.keys() == tensors.keys()
    assert all(torch.equal(own[name], tensors[name]) for name in tensors)
    assert last.marks["tao_model"] == "mask2former"


@pytest.mark.parametrize(
    ("target", "more", "code", "said"),
    [
        (
            "x.txt",
            [],
            2,
            "TARGET: .* does not end as files of any layout do: own .pth; detectron2 .pkl, .pth; hf",
        ),
        ("x.pkl", ["--to", "hf"], 2, "does not end as files of hf do: a folder, .safetensors"),
        ("x.pth", ["--to", "onnx"], 2, "--to: 'onnx' is no layout; use own, detectron2, hf, tao"),
        ("model.pth", [], 2, "is there already"),
        ("x.pth", ["model.mask_former.nheads=12"], 3, "nheads"),
        ("x", ["model.sem_seg_head.norm=LN"], 3, "--to hf: model.sem_seg_head.norm is 'LN'"),
        ("x.pth", ["model.sem_seg_head.num_classes=9"], 3, "does not hold a whole mask2former"),
        ("x.pth", ["--network", "nothing"], 4, "there is no network 'nothing'"),
        ("x.pth", ["--network", "oneformer"], 5, "oneformer"),
    ],
)
def test_refusals_write_nothing(
    target: str, more: list[str], code: int, said: str, cli: Callable, source: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    found = cli("skillbank", "weights", "convert", str(source), str(tmp_path / target), *more)
    assert found.code == code, found.err
    assert re.search(said, found.err), found.err
    assert "hint:" in found.err
    assert sorted(tmp_path.iterdir()) == before


def test_an_incomplete_file_is_refused(cli: Callable, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    part = {name: tensor for name, tensor in tensors.items() if ".decoder_norm." not in name}
    torch.save(part, tmp_path / "part.pth")
    found = cli("skillbank", "weights", "convert", str(tmp_path / "part.pth"), str(tmp_path / "x.pth"))
    assert found.code == 3
    assert "2 missing: sem_seg_head.predictor.decoder_norm.weight" in found.err
    torch.save({"conv.weight": torch.ones(2)}, tmp_path / "other.pth")
    found = cli("skillbank", "weights", "convert", str(tmp_path / "other.pth"), str(tmp_path / "x.pth"))
    assert found.code == 3
    assert "holds no weights of a network of this version; its 1 tensors are named conv.weight" in found.err


def test_without_a_runtime(cli: Callable, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import skillbank.runtime

    installed = skillbank.runtime.is_installed
    monkeypatch.setattr(skillbank.runtime, "is_installed", lambda name: name != "torch" and installed(name))
    found = cli("skillbank", "weights", "inspect", str(source))
    assert found.code == 5
    assert "skillbank[runtime]" in found.err
