"""Schemas, templates, validation, keys; the answer without an option parser is the same as with it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from skillbank.generate import outputs
from skillbank.specs import network as find_network
from skillbank.specs import networks
from skillbank_runners.cli.fast import packaged_schema, packaged_spec
from skillbank_runners.cli.index import packaged, with_experiment

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank with every generated file, as it is in a release."""
    root = tmp_path_factory.mktemp("bank")
    for path, content in outputs(ROOT, extra={}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


@pytest.fixture
def packaged_bank(generated: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The generated files are those of the program."""
    monkeypatch.setattr("skillbank.bank.bank_root", lambda: generated)
    monkeypatch.setattr("skillbank_runners.cli.index.bank_root", lambda: generated)
    return generated


ACTIONS = [(network.name, action) for network in networks() for action in network.actions]


@pytest.mark.parametrize(("network", "action"), ACTIONS)
def test_the_fast_answer_is_the_ordinary_one(
    network: str, action: str, packaged_bank: Path, cli: Callable
) -> None:
    fast = packaged_schema([network, "get-job-schema", "--action", action])
    assert fast is not None
    ordinary = cli("tao", network, "get-job-schema", "--action", action, "-o", "json")
    assert json.loads(fast) == ordinary.json()
    words = [network, "get-spec", "--action", action, "--job_type", "experiment", "--id", "x"]
    spec = packaged_spec(words)
    assert spec == cli("tao-client", *words, "-o", "json").out
    assert spec is not None
    assert json.loads(spec) == json.loads(fast)["default"]


@pytest.mark.parametrize("network", [network.name for network in networks()])
def test_a_base_experiment_fills_the_default(network: str, packaged_bank: Path, cli: Callable) -> None:
    rows = cli("tao", network, "list-base-experiments").json()
    assert rows[0]["id"] == f"{network}-scratch"
    assert rows[0]["weights"] is None
    assert all(row["network_arch"] == network for row in rows)
    seen = 0
    for row in rows:
        words = [network, "get-job-schema", "--action", "train", "--base_experiment_id", row["id"]]
        fast = packaged_schema(words)
        assert fast is not None
        default = json.loads(fast)["default"]
        assert default == cli("tao", *words, "-o", "json").json()["default"]
        for key, value in row["specs"].items():
            block, *parts = key.split(".")
            if block not in default:
                assert block in find_network(network).actions, "only blocks of other actions may be left out"
                continue
            found = default[block]
            for part in parts:
                found = found[part]
            assert found == value
            seen += 1
    assert seen or len(rows) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["mask2former", "get-job-schema"],
        ["mask2former", "get-job-schema", "--action", ""],
        ["mask2former", "get-job-schema", "--action", "--base-experiment-id"],
        ["mask2former", "get-job-schema", "--action", "train", "--base-experiment-id"],
        ["mask2former", "get-job-schema", "--action", "train", "-o", "yaml"],
        ["mask2former", "get-job-schema", "--action", "../train"],
        ["mask2former", "get-job-schema", "--action", "train", "--action", "export"],
        ["mask2former", "get-job-schema", "--action", "train", "--base-experiment-id", "unknown"],
        ["mask2former", "create-job", "--action", "train"],
        ["maskformer", "get-job-schema", "--action", "train"],
    ],
)
def test_anything_unusual_is_left_to_the_ordinary_way(words: list[str], packaged_bank: Path) -> None:
    assert packaged_schema(words) is None


def test_networks_from_elsewhere_are_left_to_the_ordinary_way(
    packaged_bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert packaged("mask2former") is not None
    monkeypatch.setenv("SKILLBANK_NETWORKS", "somewhere.else")
    assert packaged("mask2former") is None


def test_keys_of_other_actions_in_an_experiment_are_left_out() -> None:
    default = {"train": {"lr": 1}, "model": {"a": None}}
    specs = {"train.lr": 2, "model.a": [1], "export.height": 3, "model.unknown": 4}
    assert with_experiment(default, specs) == {"train": {"lr": 2}, "model": {"a": [1]}}
    assert default == {"train": {"lr": 1}, "model": {"a": None}}


def test_schema_errors_name_what_there_is(cli: Callable) -> None:
    wrong = cli("tao", "mask2former", "get-job-schema", "--action", "trian")
    assert (wrong.code, wrong.out) == (4, "")
    assert "mask2former has no action 'trian'; it has train, evaluate" in wrong.err
    wrong = cli(
        "tao", "mask2former", "get-job-schema", "--action", "train", "--base-experiment-id", "unknown"
    )
    assert wrong.code == 4
    assert "mask2former-scratch" in wrong.err
    wrong = cli("tao-client", "oneformer", "get-spec", "--action", "train", "--job_type", "job", "--id", "x")
    assert wrong.code == 2
    assert "use experiment or dataset" in wrong.err


def test_automl_defaults_and_details(cli: Callable) -> None:
    keys = cli("tao", "mask2former", "get-automl-defaults").json()
    assert all(row["published"] for row in keys)
    searched = [row["parameter"] for row in keys if row["searched_by_default"]]
    drawn = cli("skillbank", "automl", "space", "mask2former", "-o", "id").out.split()
    assert "train.optim.lr" in searched
    assert sorted(searched) == sorted(drawn)
    assert len(searched) < len(keys)
    (row,) = cli("tao", "mask2former", "get-automl-param-details", "--parameters", "train.optim.lr").json()
    assert (row["parameter"], row["type"], row["default"]) == ("train.optim.lr", "number", 0.0002)
    assert len(cli("tao", "mask2former", "get-automl-param-details").json()) == len(keys)
    assert cli("tao", "mask2former", "get-automl-param-details", "--parameters", "train.lrr").code == 4


def test_a_template_is_a_spec_that_validates(cli: Callable, tmp_path: Path) -> None:
    text = cli("skillbank", "spec", "template", "mask2former", "train").out
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    assert yaml.safe_load(text)["train"]["num_epochs"] == 10
    seen = cli("skillbank", "spec", "validate", "mask2former", "train", str(path))
    assert (seen.code, seen.json()["valid"]) == (0, True)
    plain = cli("skillbank", "spec", "template", "mask2former", "train", "-o", "json")
    assert plain.json()["train"]["num_epochs"] == 10


def test_validation_lists_every_problem_at_once(cli: Callable, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text('{"train": {"num_epoch": 5, "optim": {"lr": "fast"}}}')
    seen = cli("skillbank", "spec", "validate", "mask2former", "train", str(path), "-o", "json")
    assert (seen.code, seen.out) == (3, "")
    assert "train.num_epochs" in seen.err
    assert "train.optim.lr" in seen.err
    error = json.loads(seen.err.splitlines()[-1])["error"]
    assert {problem["key"] for problem in error["problems"]} == {"train.num_epoch", "train.optim.lr"}


def test_missing_values_are_listed_and_with_complete_refused(cli: Callable) -> None:
    words = ("skillbank", "spec", "validate", "oneformer", "evaluate")
    seen = cli(*words)
    assert seen.code == 0
    missing = seen.json()["missing"]
    assert "evaluate.checkpoint" in missing
    assert {"dataset.val.images", "dataset.val.annotations", "dataset.label_map"} <= set(missing)
    assert "note: still empty" in seen.err
    refused = cli(*words, "--complete")
    assert refused.code == 3
    assert all(key in refused.err for key in missing)
    assert cli(*words, "--complete", *(f"{key}=x.pth" for key in missing)).code == 0


@pytest.mark.parametrize("source", ["@{path}", "{path}", "{text}"])
def test_a_spec_is_a_file_or_text_and_settings_win(source: str, cli: Callable, tmp_path: Path) -> None:
    text = '{"train": {"num_epochs": 7}}'
    path = tmp_path / "a=b.yaml"
    path.write_text(text)
    given = source.format(path=path, text=text) if "text" not in source else text
    for more, value, origin in (([], 7, "file"), (["train.num_epochs=3"], 3, "override")):
        rows = cli("skillbank", "spec", "explain", "mask2former", "train", given, *more).json()
        (row,) = [row for row in rows if row["key"] == "train.num_epochs"]
        assert (row["value"], row["origin"]) == (value, origin)


def test_words_that_are_no_settings(cli: Callable) -> None:
    seen = cli("skillbank", "spec", "validate", "mask2former", "train", "spec.yaml", "num_epochs")
    assert seen.code == 2
    assert "'num_epochs' is no setting; settings are written KEY=VALUE" in seen.err
    assert cli("skillbank", "spec", "validate", "mask2former", "train", "nowhere.yaml").code == 4
    assert cli("skillbank", "spec", "validate", "mask2former", "fly").code == 4


def test_keys_can_be_searched(cli: Callable) -> None:
    rows = cli("skillbank", "spec", "keys", "mask2former", "train").json()
    by_key = {row["key"]: row for row in rows}
    assert by_key["train.optim.lr"]["automl"] == "default"
    assert by_key["train.precision"]["type"] == "option"
    assert "fp16" in by_key["train.precision"]["allowed"]
    assert "model" not in by_key
    found = cli(
        "skillbank", "spec", "keys", "mask2former", "train", "--match", "LEARNING RATE", "-o", "id"
    ).out.split()
    assert "train.optim.lr" in found
    assert len(found) < 10
    popular = cli("skillbank", "spec", "keys", "mask2former", "train", "--popular").json()
    assert popular == [row for row in rows if row["popular"]]
    searchable = cli("skillbank", "spec", "keys", "mask2former", "train", "--automl").json()
    assert {row["automl"] for row in searchable} == {"default", "when named"}
    published = cli("tao", "mask2former", "get-automl-defaults", "-o", "id").out.split()
    assert sorted(row["key"] for row in searchable) == sorted(published)
    by_default = [row["key"] for row in searchable if row["automl"] == "default"]
    assert by_default == cli("skillbank", "automl", "space", "mask2former", "-o", "id").out.split()
    assert cli("skillbank", "spec", "keys", "mask2former", "export", "--automl").json() == []
