"""Options of the commands that make jobs: what reaches the plan, what is refused, what is remembered."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skillbank.jobs.store import JobStore

SECRET = "hidden-value-4410"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text("train:\n  num_epochs: 7\n")
    return path


PLAN = ("--dry-run", "--explain")


def plan(cli: Callable, *words: str) -> dict[str, Any]:
    """The plan of a training job with datasets."""
    data = ("--train-dataset-uri", "s3://bucket/train", "--eval-dataset-uri", "s3://bucket/eval")
    seen = cli(
        "tao", "mask2former", "create-job", "--action", "train", *data, "--dry-run", "--explain", *words
    )
    assert seen.code == 0, seen.err
    found: dict[str, Any] = seen.json()
    return found


def origin(found: dict[str, Any], key: str) -> tuple[Any, str]:
    """Value and kind of origin of a key."""
    (row,) = [row for row in found["origins"] if row["key"] == key]
    return row["value"], row["origin"]


def test_the_layers_reach_the_plan_in_their_order(cli: Callable, spec: Path) -> None:
    found = plan(
        cli, "--specs", f"@{spec}", "--base-experiment-id", "mask2former-swin-large-in22k",
        "--dataset-format", "coco_panoptic", "train.optim.lr=1e-5", "-o", "train.seed=5",
    )  # fmt: skip
    assert origin(found, "train.num_epochs") == (7, "file")
    assert origin(found, "model.backbone.swin.type") == ("large", "base-experiment")
    assert origin(found, "dataset.train.panoptic_json") == (
        "s3://bucket/train/annotations_panoptic.json",
        "dataset",
    )
    assert origin(found, "train.optim.lr") == (1e-5, "override")
    assert origin(found, "train.seed") == (5, "override")
    assert found["route"] == "direct"
    assert not JobStore().list()


@pytest.mark.parametrize(
    "text", ["{path}", "@{path}", '{"train": {"num_epochs": 7}}', "train: {num_epochs: 7}"]
)
def test_specs_in_every_form(text: str, cli: Callable, spec: Path) -> None:
    given = text.replace("{path}", str(spec))
    assert plan(cli, "--specs", given)["spec"]["train"]["num_epochs"] == 7


def test_flags_in_either_spelling_and_order(cli: Callable) -> None:
    words = [
        "train.num_epochs=3",
        "--train_dataset_uri=d",
        "--action",
        "train",
        "--dry_run",
        "--eval_dataset_uri",
        "d",
    ]
    seen = cli("tao", "mask2former", "create_job", *words)
    assert seen.code == 0, seen.err
    assert seen.json()["spec"]["train"]["num_epochs"] == 3


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--kind", "thing"), 2, "experiment"),
        (("--env", "OMP_NUM_THREADS"), 2, "--env: 'OMP_NUM_THREADS' is not of the form NAME=VALUE"),
        (("--automl-settings", "{"), 2, "--automl-settings: cannot be read"),
        (("--automl-settings", "[1]"), 2, "--automl-settings: not a map"),
        (("--automl-settings", '{"trails": 3}'), 3, "trials"),
        (("--checkpoint", "third"), 2, "third"),
        (("--backend-type", "slurm"), 5, "slurm"),
        (("--base-experiment-id", "nothing"), 4, "mask2former-scratch"),
        (("--parent-job-id", "nothing"), 4, "nothing"),
        (("--specs", "@nowhere.yaml"), 4, "nowhere.yaml"),
        (("train.num_epoch=3",), 3, "train.num_epochs"),
        (("--encryption-key", "@nowhere.key"), 4, "nowhere.key"),
    ],
)
def test_options_that_are_refused(words: tuple[str, ...], code: int, says: str, cli: Callable) -> None:
    data = ("--train-dataset-uri", "d", "--eval-dataset-uri", "d")
    seen = cli("tao", "mask2former", "create-job", "--action", "train", *data, "--dry-run", *words)
    assert (seen.code, seen.out) == (code, ""), seen.err
    assert says in seen.err


def test_policy_of_the_commands(cli: Callable) -> None:
    assert plan(cli)["decision"]["policy"] == "off"
    assert plan(cli, "--automl-settings", '{"automl_enabled": false}')["decision"]["policy"] == "off"
    data = ("--train", "d", "--eval", "d", "--dry-run")
    routed = cli(
        "skillbank", "run", "mask2former", "train", *data, "--request", "plain training please"
    ).json()
    assert (routed["route"], routed["decision"]["matched_text"]) == ("direct", "plain training")
    default = cli("skillbank", "run", "mask2former", "train", *data).json()
    assert default["decision"]["policy"] == "auto"


def test_secrets_are_not_shown(cli: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(f"{SECRET}\n")
    for words in (
        ("--encryption-key", SECRET),
        ("--encryption-key", f"@{key}"),
        (f"encryption_key={SECRET}",),
        ("--env", f"AWS_SECRET_ACCESS_KEY={SECRET}"),
    ):
        assert SECRET not in json.dumps(plan(cli, *words)), words
    monkeypatch.setenv("SKILLBANK_ENCRYPTION_KEY", SECRET)
    assert SECRET not in json.dumps(plan(cli))


def test_explain_is_talk_unless_nothing_is_started(
    cli: Callable, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKILLBANK_NETWORKS", "stand_ins.mask2former")
    monkeypatch.setenv("STAND_IN_IMPL", "no_such_implementation")
    words = (
        "tao",
        "mask2former",
        "create-job",
        "--action",
        "train",
        "--specs",
        str(spec),
        "--train",
        "d",
        "--eval",
        "d",
    )
    seen = cli(*words, "--explain")
    assert (seen.code, seen.out) == (5, "")
    assert "train.num_epochs = 7" in seen.err
    assert f"file: {spec}" in seen.err.replace("\n      ", " ")
    assert "dataset.train.img_dir" in seen.err
    assert "Defaults:\n" in seen.err
    assert "there is nothing to install" in seen.err


def test_the_launcher_form_plans_too_and_keeps_the_folder(
    cli: Callable, spec: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    values = [
        f"dataset.{split}.{key}=x" for split in ("train", "val") for key in ("img_dir", "panoptic_json")
    ]
    values += ["dataset.train.panoptic_dir=x", "dataset.val.panoptic_dir=x", "dataset.label_map=x"]
    words = ("-e", "spec.yaml", "--dry-run", "results_dir=out", *values)
    for form in (("tao", "model", "mask2former", "train"), ("tao", "mask2former", "train")):
        found = cli(*form, *words)
        assert found.code == 0, found.err
        assert found.json()["results_dir"] == str(tmp_path / "out")
        assert found.json()["decision"]["policy"] == "off"
    refused = cli("tao", "model", "mask2former", "train", *words, "more")
    assert refused.code == 2
    assert "'more' is no setting" in refused.err


DATA = ("--train", "s3://bucket/coco", "--eval", "s3://bucket/coco")


@pytest.mark.parametrize("form", [("tao", "model", "mask2former", "train"), ("tao", "mask2former", "train")])
def test_the_launcher_form_takes_the_flags_that_its_hints_name(form: tuple[str, ...], cli: Callable) -> None:
    refused = cli(*form, "-e", "{}", "--dry-run")
    assert refused.code == 3
    assert "hint: --train-dataset-uri URI, or dataset.train.img_dir=PATH" in refused.err
    seen = cli(*form, "-e", "{}", "--dry-run", *DATA, "--dataset-format", "coco_panoptic")
    assert seen.code == 0, seen.err
    assert seen.json()["spec"]["dataset"]["val"]["img_dir"].startswith("s3://bucket/coco/")
    based = cli(*form, "-e", "{}", "--dry-run", *DATA, "--base-experiment-id", "mask2former-swin-large-in22k")
    assert based.json()["base_experiment_id"] == "mask2former-swin-large-in22k"
    assert cli(*form, "-e", "{}", "--dry-run", *DATA, "--parent-job-id", "nothing").code == 4
    for flag in ("--inference-dataset-uri", "--calibration-dataset-uri"):
        assert cli(*form, "-e", "{}", "--dry-run", *DATA, flag, "s3://bucket/more").code == 0


def test_the_older_client_plans_too(cli: Callable) -> None:
    words = (
        "experiment-run-action",
        "--action",
        "train",
        "--id",
        "main",
        "--specs",
        "{}",
        *DATA,
        "--dry-run",
    )
    seen = cli("tao-client", "mask2former", *words)
    assert seen.code == 0, seen.err
    assert (seen.json()["network"], seen.json()["action"]) == ("mask2former", "train")
    convert = (
        "dataset-run-action",
        "--action",
        "dataset_convert",
        "--id",
        "x",
        "--train",
        "s3://bucket/scenes",
    )
    found = cli("tao-client", "sparse4d", *convert, "--dry-run")
    assert found.code == 0, found.err
    assert found.json()["action"] == "dataset_convert"
    assert not JobStore().list()


def test_origins_come_with_explain_only_and_results_have_a_place(cli: Callable, own_home: Path) -> None:
    words = ("tao", "mask2former", "create-job", "--action", "train", *DATA, "--dry-run")
    short = cli(*words).json()
    assert "origins" not in short
    assert short["results_dir"] == str(own_home / "store" / "jobs" / "JOB" / "results")
    assert len(cli(*words, "--explain").json()["origins"]) > 100


def test_the_plan_of_a_search_shows_the_search(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("skillbank", "automl", "run", "mask2former", *DATA, "--trials", "8", "--algorithm", "random")
    search = cli(*words, "--dry-run").json()["automl"]
    assert (search["algorithm"], search["trials"], search["direction"]) == ("random", 8, "max")
    assert search["metric"]
    assert search["space"] == cli("skillbank", "automl", "space", "mask2former").json()
    text = cli(*words, "--dry-run", "-o", "table").out
    assert "random, 8 trials, 1 at once" in text
    assert "train.optim.lr = 2e-05 to 0.002, log" in text


def test_the_plan_for_people_fits_and_lists_defaults_on_request(
    cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = ("tao", "mask2former", "create-job", "--action", "train", *DATA, "--dry-run", "-o", "table")
    seen = cli(*words, "train.num_epochs=3")
    lines = seen.out.splitlines()
    assert "  train.num_epochs = 3  (override: command line)" in lines
    assert "Data files:" in lines
    assert not any(line.startswith(("{", "[")) or '{"' in line for line in lines)
    assert "train.seed" not in seen.out
    assert [line for line in lines if len(line) > 80 and len(line.split()) > 1 and "/" not in line] == []
    full = cli(*words, "train.num_epochs=3", "--explain").out
    assert "  train.seed = " in full
