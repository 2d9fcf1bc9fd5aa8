"""What a command line imports before it has anything to do, and how it behaves at the ends of pipes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
HEAVY = (
    "torch",
    "pytorch_lightning",
    "boto3",
    "botocore",
    "jsonschema",
    "requests",
    "rich",
    "optuna",
    "numpy",
)

PROBE = """
import json, sys
from skillbank_runners.cli import {module} as program
code = program.main({words!r})
print(json.dumps({{"code": code, "heavy": [m for m in {heavy!r} if m in sys.modules],
                   "pydantic": "pydantic" in sys.modules, "typer": "typer" in sys.modules}}), file=sys.stderr)
"""


def probe(module: str, words: list[str], home: Path) -> dict[str, object]:
    """Run a command line in a fresh process and tell what it had imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(module=module, words=words, heavy=HEAVY)],
        capture_output=True, text=True, check=True, env={**os.environ, "SKILLBANK_HOME": str(home)},
    )  # fmt: skip
    assert done.stdout
    found: dict[str, object] = json.loads(done.stderr.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("tao", ["--help"]),
        ("tao", ["mask2former", "--help"]),
        ("tao", ["model", "mask2former", "train", "-h"]),
        ("tao", ["mask2former", "create-job", "--help"]),
        ("tao_client", ["oneformer", "--help"]),
        ("skillbank", ["--help"]),
        ("skillbank", ["jobs", "list"]),
        ("skillbank", ["spec", "validate", "mask2former", "train", "train.num_epochs=3"]),
        ("tao", ["mask2former", "list-base-experiments"]),
    ],
)
def test_light_commands_import_nothing_heavy(module: str, words: list[str], tmp_path: Path) -> None:
    found = probe(module, words, tmp_path)
    assert found["code"] == 0
    assert found["heavy"] == []


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("tao", ["mask2former", "get-job-schema", "--action", "train"]),
        (
            "tao",
            ["sparse4d", "get-job-schema", "--action", "train", "--base-experiment-id", "sparse4d-scratch"],
        ),
        (
            "tao_client",
            ["oneformer", "get-spec", "--action", "train", "--job_type", "experiment", "--id", "x"],
        ),
    ],
)
def test_packaged_schemas_need_neither_models_nor_an_option_parser(
    module: str, words: list[str], tmp_path: Path
) -> None:
    found = probe(module, words, tmp_path)
    assert found == {"code": 0, "heavy": [], "pydantic": False, "typer": False}


def test_the_probe_sees_heavy_imports(tmp_path: Path) -> None:
    assert probe("skillbank", ["networks", "-o", "table"], tmp_path)["heavy"] == ["rich"]


@pytest.mark.parametrize(
    "line",
    [
        "tao mask2former get-job-schema --action train",
        "tao mask2former get-job-schema --action train -o yaml",
        "skillbank spec keys sparse4d train",
    ],
)
def test_a_reader_that_leaves_early_is_no_error(line: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{line} | head -n 1; echo \"${{PIPESTATUS[0]}}\""],
        capture_output=True, text=True, check=True,
        env={**os.environ, "SKILLBANK_HOME": str(tmp_path), "PATH": f"{BIN}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] in ("0", "141")
