"""Blocks of playbooks: each table says what specs and machine facts say."""

from pathlib import Path

import pytest

from skillbank.errors import DataError, NotFoundError
from skillbank.generate.files import networks_of
from skillbank.generate.playbooks import BLOCKS, Bank, marked_files, render

SKILL = Path("skills/tao-train-plain/SKILL.md")


def block(root: Path, name: str, path: Path = SKILL) -> str:
    text = f"before\n<!-- generated:{name} -->\nold\n<!-- /generated -->\nafter\n"
    found = render(Bank(root, networks_of(root)), path, text)
    head, tail = f"before\n<!-- generated:{name} -->\n", "\n<!-- /generated -->\nafter\n"
    assert found.startswith(head)
    assert found.endswith(tail)
    return found.removeprefix(head).removesuffix(tail)


def row(table: str, start: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_actions(bank: Path) -> None:
    table = block(bank, "actions")
    assert row(table, "`train`")[1:4] == ["Trains.", "`tao model plain train -e SPEC`", "`dataset.root`"]
    assert row(table, "`train`")[4:] == ["`.pth`", "`.pth`"]
    assert row(table, "`evaluate`")[3] == "`evaluate.checkpoint` or `evaluate.engine`"
    assert row(table, "`export`")[3] == "`export.checkpoint`, `export.inputs`, `export.format`"
    assert "fly" not in table


def test_data_sources(bank: Path) -> None:
    table = block(bank, "data-sources")
    assert row(table, "train | `dataset.root`")[2:4] == ["train", "`data.tar.gz` (or `data`)"]
    images = row(table, "train | `dataset.train.images`")
    assert images[3] == "plain: its root, other: `images`"
    assert images[4] == "`dataset_format` is panoptic, a list, one for each dataset"
    width = row(table, "train | `model.embed_dims`")
    assert width[2:4] == ["`dataset_format`", "panoptic: `64`, other: `32`, not given: `16`"]
    assert row(table, "train | `model.device`")[2:4] == ["constant", "`cpu`"]
    label_map = row(table, "train | `model.name`")
    assert label_map[3] == "panoptic: `fine.json` (or `map.json`), other: `map.json`"
    assert row(table, "evaluate | `dataset.root`")[2:] == ["inference", "its root", "", "yes"]


def test_overrides_are_those_of_the_library(bank: Path) -> None:
    text = block(bank, "overrides")
    assert text.startswith('```python\nS3_TRAIN = "s3://bucket/data/train"\n')
    assert '    "dataset.root": f"{S3_TRAIN}/data.tar.gz",\n' in text
    assert '    "dataset.train.images": [f"{S3_TRAIN}/images"],\n' in text
    assert '    "model.embed_dims": 64,\n' in text
    names: dict[str, object] = {}
    exec(text.removeprefix("```python\n").removesuffix("\n```"), names)
    assert names["train"]["dataset.root"] == "s3://bucket/data/train/data.tar.gz"  # type: ignore[index]


def test_spec_params_join_equal_actions(bank: Path) -> None:
    table = block(bank, "spec-params")
    assert row(table, "train, evaluate | `results_dir`")[2:] == ["`output_dir`", "results folder of this job"]
    assert row(table, "train | `train.checkpoint`")[2] == "`parent_model`"


def test_tables_of_keys(bank: Path) -> None:
    table = block(bank, "parameters")
    assert row(table, "`dataset.root`")[1:] == ["mandatory", "text", "Folder."]
    assert row(table, "`train.optim.lr`")[1:3] == ["`0.0002`", "a number above 0 and at most 1"]
    assert "train.fast" not in table
    assert row(block(bank, "shorthand"), "`learning_rate`")[1] == "`train.optim.lr`"
    assert row(block(bank, "automl-parameters"), "`train.optim.lr`")[3:] == [
        "2e-05 to 0.002, logarithmic",
        "yes",
    ]
    metrics = block(bank, "metrics")
    assert row(metrics, "`mIoU`")[0:2] == ["`mIoU` (objective)", "higher"]
    assert "Loss \\| total." in metrics


def test_networks_and_status(bank: Path) -> None:
    assert row(block(bank, "networks"), "`plain`")[2] == "`train`, `evaluate`, `export`"
    assert "is not part of this release yet" in block(bank, "status")
    assert "Not implemented yet: `plain`" in block(bank, "status", Path("README.md"))
    (bank / "model_impl/plain_models/plain").mkdir(parents=True)
    assert "`plain` runs with the runtime" in block(bank, "status")


def test_shared_texts_and_named_networks(bank: Path) -> None:
    assert block(bank, "shared launch") == "Run `tao plain train`."
    assert block(bank, "shared launch", Path("README.md")) == "Run `tao NETWORK train`."
    assert "`learning_rate`" in block(bank, "shorthand network=plain", Path("README.md"))


def test_every_block_renders(bank: Path) -> None:
    for name in BLOCKS:
        assert block(bank, "shared launch" if name == "shared" else name)
    assert len(BLOCKS) >= 11


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<!-- generated:nonsense -->\n<!-- /generated -->", "line 1: there is no block 'nonsense'"),
        ("\n<!-- generated:actions -->\ntext", "line 2: the block is not closed"),
        (
            "<!-- generated:actions -->\n<!-- generated:metrics -->\n<!-- /generated -->",
            "line 1: the block is not",
        ),
        ("<!-- generated:actions network=nowhere -->\n<!-- /generated -->", "no network 'nowhere'"),
        ("<!-- generated:actions color=red -->\n<!-- /generated -->", "there is no block"),
        ("<!-- generated:actions extra -->\n<!-- /generated -->", "there is no block"),
    ],
)
def test_broken_blocks(bank: Path, text: str, wanted: str) -> None:
    with pytest.raises(DataError, match=wanted) as caught:
        render(Bank(bank, networks_of(bank)), SKILL, text)
    assert "SKILL.md" in str(caught.value)


def test_a_block_about_a_network_in_a_file_about_none(bank: Path) -> None:
    with pytest.raises(DataError) as caught:
        block(bank, "actions", Path("README.md"))
    assert "network=plain" in caught.value.hint
    with pytest.raises(NotFoundError, match="there are launch"):
        block(bank, "shared nothing")


def test_text_outside_of_blocks_and_in_code_stays(bank: Path) -> None:
    text = "# Title\n\n```\n<!-- generated:unknown -->\n```\n\nend\n"
    assert render(Bank(bank, networks_of(bank)), SKILL, text) == text
    assert marked_files(bank) == [SKILL]
