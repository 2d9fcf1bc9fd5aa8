"""Every command line of the product documentation, letter for letter, in a strict shell.

Here: the lines that need no implementation of a network, and what the others say in a version without one.
The whole scripts, run top to bottom with stand-ins for the implementations, are in
``tests/e2e/test_document_scripts_*.py``.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command_lines import (
    EXTERNAL,
    LISTINGS,
    environment,
    filled,
    lines,
    make_dataset,
    network_of,
    write_files,
)

from skillbank.jobs.record import Request
from skillbank.jobs.states import State
from skillbank.jobs.store import JobStore

ROOT = Path(__file__).resolve().parents[2]
NOTES = ROOT.parent / "shared" / "design" / "commands.md"
KEY = "nvidia_tlt"

# Lines that print specs and schemas.
LIGHT = ("A01", "A02", "A09", "A14", "A17", "A20", "C01", "D01", "D03")
# Lines that make a job, in the foreground or not.
JOBS = tuple(number for number in lines() if number not in {*LIGHT, *EXTERNAL, *LISTINGS})

needs_jq = pytest.mark.skipif(
    shutil.which("jq") is None and os.environ.get("CI") != "true", reason="jq is not installed"
)


def bash(script: str, work: Path, env: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a strict shell."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=work, env={**env, **more}, capture_output=True, text=True, check=False, timeout=120,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_every_line_has_its_place() -> None:
    assert len(lines()) == 48
    assert set(LIGHT) | set(JOBS) | set(EXTERNAL) | set(LISTINGS) == set(lines())
    assert len(LIGHT) + len(JOBS) + len(EXTERNAL) + len(LISTINGS) == 48
    assert all(EXTERNAL.values())


@pytest.mark.skipif(not NOTES.is_file(), reason="the design notes are not on this machine")
def test_the_list_is_that_of_the_notes() -> None:
    _, _, raw = NOTES.read_text(encoding="utf-8").partition("## G.")
    block = raw.split("```text\n", 1)[1].split("\n```", 1)[0]
    assert dict(row.split("\t", 1) for row in block.splitlines()) == lines()


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the lines that print something left in their variables, run one after the other in one shell."""
    if shutil.which("jq") is None:
        pytest.fail("jq is not installed, and in CI it must be")
    work = tmp_path_factory.mktemp("light")
    script = []
    for number in LIGHT:
        variable = lines()[number].partition("=")[0]
        script += [filled(number, work), f'printf %s "${variable}" > {number}']
    env = environment(work, "no_such_implementation")
    del env["SKILLBANK_NETWORKS"]
    done = bash("\n".join(script), work, env)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    return {number: (work / number).read_text() for number in LIGHT}


@needs_jq
def test_a01_the_first_base_experiment_is_usable(printed: dict[str, str]) -> None:
    assert printed["A01"] == "nvpanoptix3d-scratch"


@needs_jq
@pytest.mark.parametrize("number", [number for number in LIGHT if number != "A01"])
def test_lines_that_print_a_spec(number: str, printed: dict[str, str]) -> None:
    spec = json.loads(printed[number])
    assert {"model", "dataset", "train", "results_dir"} <= set(spec)
    action = {"A14": "evaluate", "A17": "inference", "A20": "export"}.get(number, "train")
    assert action in spec


@needs_jq
def test_d01_every_sub_task_has_a_spec(tmp_path: Path) -> None:
    tasks = ("train", "evaluate", "inference", "export", "dataset_convert", "quantize")
    line = lines()["D01"]
    script = "\n".join(f'{line.replace("<sub_task>", task)}; jq -c keys <<<"$SPECS"' for task in tasks)
    done = bash(script, tmp_path, environment(tmp_path, "no_such_implementation"))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(tasks)


# --- a version without implementations


class Machine:
    """A home with finished parents in its store, and all files the lines name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = make_dataset(root / "data")
        self.env = environment(root, "no_such_implementation")
        self.store = JobStore(root / "store")

    def work(self, number: str) -> Path:
        """A folder for one line."""
        work = self.root / number
        work.mkdir(exist_ok=True)
        write_files(work, network_of(number), self.data)
        for name in ("stage1_spec.yaml", "eval_spec.yaml", "inference_spec.yaml", "export_spec.yaml"):
            (work / name).write_text("{}")
        (work / "stage2_spec.yaml").write_text('{"dataset": {"enable_3d": true}}')
        return work

    def trained(self, name: str, **specs: Any) -> str:
        """A finished training job with a checkpoint."""
        job = self.store.create(Request(network=name, action="train", specs=specs))
        self.store.transition(job.id, State.RUNNING)
        path = Path(job.results_dir) / "train" / "model_epoch_000.pth"
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        self.store.register_artifact(job.id, path, kind="checkpoint", epoch=0, step=1)
        self.store.transition(job.id, State.DONE)
        return job.id

    def variables(self, number: str) -> dict[str, str]:
        """What the lines before would have left in the shell."""
        name = network_of(number)
        found = {"DATASET_URI": str(self.data), "SPECS": (self.root / number / "spec.yaml").read_text()}
        if name == "nvpanoptix3d":
            found["STAGE1_JOB_ID"] = self.trained(name, dataset={"enable_3d": False})
            found["STAGE2_JOB_ID"] = self.trained(name, dataset={"enable_3d": True})
            found["BASE_EXPERIMENT_ID"] = "nvpanoptix3d-scratch"
        else:
            found["TRAIN_JOB_ID"] = self.trained(name)
        return found


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STAND_IN_IMPL", "no_such_implementation")
        return Machine(tmp_path_factory.mktemp("machine"))


@needs_jq
@pytest.mark.parametrize("number", JOBS)
def test_without_an_implementation_a_job_is_refused_with_exit_5(number: str, machine: Machine) -> None:
    work = machine.work(number)
    variables = machine.variables(number)
    before = len(machine.store.list())
    done = bash(filled(number, work), work, machine.env, **variables)
    assert done.returncode == 5, done.stderr
    assert f"no implementation of {network_of(number)}" in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert len(machine.store.list()) == before, "a job that cannot run must not be recorded"
    assert KEY not in done.stderr


# --- traps


@needs_jq
@pytest.mark.parametrize(
    ("number", "variable", "flag"),
    [
        ("A03", "WORKSPACE_ID", "--workspace-id"),
        ("A03", "DATASET_URI", "--train-dataset-uri"),
        ("A10", "STAGE1_JOB_ID", "--parent-job-id"),
        ("A02", "BASE_EXPERIMENT_ID", "--base-experiment-id"),
        ("C02", "EXPERIMENT_ID", "--id"),
        ("C02", "SPECS", "--specs"),
        ("C06", "TRAIN_JOB_ID", "--parent-job-id"),
        ("D05", "TRAIN_JOB_ID", "--parent-job-id"),
        ("C01", "EXPERIMENT_ID", "--id"),
    ],
)
def test_an_empty_variable_is_a_usage_error_that_names_the_flag(
    number: str, variable: str, flag: str, tmp_path: Path
) -> None:
    env = environment(tmp_path, "no_such_implementation")
    given = {
        "DATASET_URI": "d",
        "STAGE1_JOB_ID": "j",
        "TRAIN_JOB_ID": "j",
        "SPECS": "{}",
        "BASE_EXPERIMENT_ID": "b",
    }
    done = bash(lines()[number].replace("| jq -r '.id'", "").replace("| jq -r '.default'", ""), tmp_path, env,
                **{**given, variable: ""})  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert f"{flag} has" in done.stderr
    assert "empty?" in done.stderr
    assert not (tmp_path / "store").exists()


def test_specs_saved_as_yaml_or_json_and_train_specs_for_other_actions(machine: Machine) -> None:
    """JSON in a file named .yaml is read; blocks of other actions are no problem, none is asked for."""
    from skillbank.specs.load import Layer, build_spec, read_spec

    work = machine.root / "saved"
    work.mkdir()
    write_files(work, "oneformer", machine.data)
    (work / "real.yaml").write_text("train:\n  num_epochs: 3\n")
    assert read_spec(f"@{work / 'spec.yaml'}")["train"]
    assert read_spec(work / "real.yaml") == {"train": {"num_epochs": 3}}
    for action, key in (("evaluate", "evaluate"), ("inference", "inference"), ("export", "export")):
        layers = [Layer("file", "spec.yaml", read_spec(work / "spec.yaml"))]
        spec = build_spec("oneformer", action, layers, draft=True).nested()
        assert key in spec
        assert "quantize" not in spec


def test_parents_are_resolved_before_anything_is_refused(machine: Machine) -> None:
    """A stage-2 parent serves an export, an evaluation dataset is the test split, stage 1 gives weights."""
    first = machine.trained("nvpanoptix3d", dataset={"enable_3d": False})
    second = machine.trained("nvpanoptix3d", dataset={"enable_3d": True})
    plans = {
        "export": f"--action export --parent-job-id {second}",
        "evaluate": f"--action evaluate --parent-job-id {second} --eval-dataset-uri {machine.data}",
        "train": f"--action train --parent-job-id {first} --train-dataset-uri {machine.data} "
        f"--eval-dataset-uri {machine.data}",
    }
    script = "\n".join(
        f"tao nvpanoptix3d create-job {flags} --specs '{{}}' --dry-run > {name}.json"
        for name, flags in plans.items()
    )
    work = machine.root / "plans"
    work.mkdir()
    done = bash(script, work, machine.env)
    assert done.returncode == 0, done.stderr
    found = {name: json.loads((work / f"{name}.json").read_text()) for name in plans}
    assert found["export"]["spec"]["export"]["checkpoint"].endswith("model_epoch_000.pth")
    assert found["evaluate"]["spec"]["dataset"]["test"]["json_path"] == str(
        machine.data / "meta" / "test.json"
    )
    assert f"/{first}/" in found["train"]["spec"]["train"]["checkpoint_2d"]
    assert found["train"]["spec"]["dataset"]["enable_3d"] is True


def test_gpu_settings_that_disagree_and_what_a_cluster_lacks(machine: Machine) -> None:
    """`gpu_ids` of two wins over `num_gpus` of one; more than there is stops before anything is recorded."""
    env = {**machine.env, "CUDA_VISIBLE_DEVICES": ""}
    work = machine.work("C03")
    line = filled("C03", work).replace("train.gpu_ids=[0]", "train.gpu_ids=[0,1]")
    done = bash(line, work, env)
    assert done.returncode == 3, done.stderr
    assert "train.num_gpus" in done.stderr
    assert "2" in done.stderr
    fragment = '{"train": {"num_gpus": 8, "num_nodes": 2}}'
    checked = bash(f"skillbank spec validate mask2former train '{fragment}'", work, env)
    assert checked.returncode == 0, checked.stderr
    data = f"--train-dataset-uri {machine.data} --eval-dataset-uri {machine.data}"
    launch = f"tao mask2former create-job --action train --specs '{fragment}' {data}"
    refused, planned = bash(launch, work, env), bash(f"{launch} --dry-run", work, env)
    assert refused.returncode == 3
    assert "train.num_nodes" in refused.stderr
    assert planned.returncode == 0, planned.stderr
    assert "train.num_nodes: 2 is more than local has" in planned.stdout


@pytest.mark.parametrize("number", ["C07", "C09", "C11", "E04"])
def test_a_missing_checkpoint_is_named(number: str, tmp_path: Path) -> None:
    action = {"C07": "evaluate", "C09": "inference", "C11": "export", "E04": "evaluate"}[number]
    (tmp_path / "spec.yaml").write_text("{}")
    name = network_of(number)
    done = bash(
        f"tao model {name} {action} -e spec.yaml", tmp_path, environment(tmp_path, "no_such_implementation")
    )
    assert done.returncode == 3
    assert f"{action}.checkpoint" in done.stderr


def test_help_of_the_launcher_form_and_a_missing_spec(tmp_path: Path) -> None:
    env = environment(tmp_path, "no_such_implementation")
    line = lines()["C03"].replace("[-h] -e <experiment_spec>", "-h").split(" [")[0]
    shown = bash(line, tmp_path, env)
    assert shown.returncode == 0
    assert "train.num_epochs" in shown.stdout
    for form in ("tao model mask2former evaluate evaluate.checkpoint=x.pth", "tao mask2former train a=1 b=2"):
        done = bash(form, tmp_path, env)
        assert done.returncode == 2
        assert "-e is missing; name the spec file" in done.stderr


def test_a_refused_file_type(machine: Machine) -> None:
    work = machine.root / "etlt"
    work.mkdir()
    write_files(work, "oneformer", machine.data)
    done = bash(filled("C11", work).replace("model.onnx", "model.etlt"), work, machine.env)
    assert done.returncode == 3
    assert ".etlt" in done.stderr
    assert ".onnx" in done.stderr
