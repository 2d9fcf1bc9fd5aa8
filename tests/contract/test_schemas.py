"""Generated files of the real networks: standard, strict, complete, and equal to their sources."""

import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from skillbank.errors import StaleFilesError
from skillbank.generate import check, outputs, write
from skillbank.generate.meta import annotations_schema
from skillbank.generate.schemas import action_schema, dumped
from skillbank.resolve.functions import check_spec_params
from skillbank.skill_info import load_skill_info
from skillbank.specs import networks, spec_class
from skillbank.specs.base import walk
from skillbank.specs.load import Layer, build_spec, default_spec, load_yaml, missing_keys

ROOT = Path(__file__).resolve().parents[2]
PAIRS = [(network.name, action) for network in networks() for action in network.actions]


def keys_of(network: str, action: str) -> set[str]:
    return {key for key, _, _ in walk(spec_class(network, action))}


def refuse(constant: str) -> Any:
    raise ValueError(constant)


def test_all_networks_are_seen() -> None:
    assert {network for network, _ in PAIRS} >= {"mask2former", "nvpanoptix3d", "oneformer", "sparse4d"}
    assert len(PAIRS) >= 22


def test_generated_files_are_up_to_date() -> None:
    assert check(ROOT) >= 2 * len(PAIRS)


@pytest.mark.parametrize(("network", "action"), PAIRS)
def test_schema(network: str, action: str) -> None:
    path = ROOT / "skills" / next(item.skill for item in networks() if item.name == network) / "schemas"
    schema = json.loads((path / f"{action}.schema.json").read_text(encoding="utf-8"), parse_constant=refuse)
    Draft202012Validator.check_schema(schema)
    faults = list(Draft202012Validator(annotations_schema()).iter_errors(schema))
    assert not faults, faults[0].message
    assert schema["default"] == default_spec(network, action)
    left = {error.validator for error in Draft202012Validator(schema).iter_errors(schema["default"])}
    assert left <= {"required"}
    keys = keys_of(network, action)
    for name in ("automl_default_parameters", "automl_disabled_parameters"):
        assert set(schema[name]) <= keys
        assert schema[name] == sorted(schema[name])
    assert set(schema["x_aliases"].values()) <= keys
    assert not set(schema["automl_default_parameters"]) & set(schema["automl_disabled_parameters"])
    assert set(flat(schema["popular"])) <= keys
    assert "quantize" not in schema["required"] or action == "quantize"
    assert schema["additionalProperties"] is False


def flat(tree: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name, value in tree.items():
        found += flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [prefix + name]
    return found


@pytest.mark.parametrize(("network", "action"), PAIRS)
def test_defaults_build_and_foreign_blocks_are_accepted(network: str, action: str) -> None:
    schema = action_schema(network, action)
    train = {
        name: value
        for name, value in default_spec(network, "train").items()
        if isinstance(value, dict) or name in schema["properties"]
    }
    found = build_spec(network, action, [Layer("file", "train.yaml", train)], draft=True)
    assert missing_keys(network, action, found.nested()) == [
        note.removesuffix(": not set yet") for note in found.notes if note.endswith("not set yet")
    ]
    foreign = {name for name, node in schema["properties"].items() if "x_foreign" in node}
    assert {"distill", "prune"} <= foreign
    assert set(train) <= set(schema["properties"])


@pytest.mark.parametrize("network", networks(), ids=lambda network: network.name)
def test_templates_and_machine_facts(network: Any) -> None:
    folder = ROOT / "skills" / network.skill
    info = load_skill_info(network)
    assert info.name == network.skill
    assert info.network_arch == network.name
    assert set(info.actions) == set(network.actions)
    everywhere = set().union(*(keys_of(network.name, action) for action in network.actions))
    assert set(info.spec_shorthand_keys.values()) <= everywhere
    check_spec_params(network)
    for action in network.actions:
        keys = keys_of(network.name, action)
        facts = info.actions[action]
        assert {*info.data_sources.get(action, {}), *info.spec_params.get(action, {})} <= keys
        assert {*facts.inputs, *facts.outputs} <= keys
        assert "{config_path}" in facts.command
        template = folder / "references" / f"spec_template_{action}.yaml"
        assert info.spec_templates[action] == f"references/{template.name}"
        values = load_yaml(template.read_text(encoding="utf-8"), template.name)
        assert yaml.safe_load(template.read_text(encoding="utf-8")) == values
        assert without_mandatory(values) == default_spec(network.name, action)


def without_mandatory(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        name: without_mandatory(value) if isinstance(value, dict) else value
        for name, value in tree.items()
        if value != "???"
    }


def test_digests_of_the_index() -> None:
    index = json.loads((ROOT / "manifest.json").read_text(encoding="utf-8"))
    assert len(index["files"]) > 2 * len(PAIRS)
    for name, entry in index["files"].items():
        assert sha256((ROOT / name).read_bytes()).hexdigest() == entry["sha256"], name


def test_a_planted_fault_is_found(tmp_path: Path) -> None:
    for name in ("skills", "schemas", "references"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("manifest.json", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    write(tmp_path)
    assert check(tmp_path) == len(outputs(tmp_path))
    schema = tmp_path / "skills/tao-train-mask2former/schemas/train.schema.json"
    schema.write_text(schema.read_text(encoding="utf-8").replace('"maximum": 1024', '"maximum": 2048'))
    with pytest.raises(StaleFilesError, match=r"1 stale") as caught:
        check(tmp_path)
    assert "+" in str(caught.value)
    assert '"maximum": 1024' in str(caught.value)


def test_the_same_files_whatever_the_hash_seed() -> None:
    program = (
        "import sys, hashlib; from pathlib import Path; from skillbank.generate import outputs;"
        "print(hashlib.sha256(repr(outputs(Path(sys.argv[1]))).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program, str(ROOT)],
            env={"PYTHONHASHSEED": seed, "PATH": ""}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1


def test_strict_json_is_really_demanded() -> None:
    schema = action_schema("mask2former", "train")
    schema["properties"]["train"]["properties"]["num_epochs"]["maximum"] = float("inf")
    with pytest.raises(ValueError, match="JSON"):
        dumped(schema)
