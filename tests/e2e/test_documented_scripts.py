"""The documented scripts, pasted top to bottom into one strict shell; only the networks are stand-ins.

What a reader of the documents does between two lines - saving a spec to the file that the next line names,
filling in the data - is done here too, marked with ``# reader``.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_lines import data_values, environment, filled, lines, make_dataset, network_of, write_files

from skillbank.jobs.store import JobStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed"),
]

KEY = "nvidia_tlt"


class Shell:
    """A shell in a folder with data and specs, and what it left."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.root = root
        self.work = root / "work"
        self.work.mkdir()
        self.data = make_dataset(root / "data")
        write_files(self.work, name, self.data)
        self.env = environment(root, "stand_in_impl")
        self.store = JobStore(root / "store")

    def run(self, script: list[str]) -> dict[str, str]:
        """Run the lines; gives the variables that end in JOB_ID."""
        names = "${!STAGE*} ${!EVAL*} ${!INFER*} ${!EXPORT*} ${!TRAIN*} ${!JOB*}"
        tell = f'for name in {names}; do [[ $name == *JOB_ID ]] && echo "$name=${{!name}}"; done; true'
        text = "\n".join([*script, tell])
        variables = {"DATASET_URI": str(self.data)}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.work, env={**self.env, **variables}, capture_output=True, text=True, check=False,
            timeout=280, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        (self.root / "stdout").write_text(done.stdout)
        assert done.returncode == 0, done.stderr
        assert KEY not in done.stderr
        rows = [
            line.split("=", 1)
            for line in done.stdout.splitlines()
            if "_JOB_ID=" in line or line[:7] == "JOB_ID="
        ]
        return dict(rows)

    def line(self, number: str) -> str:
        """A documented line; listings look where the results are."""
        assert network_of(number) == self.name
        return filled(number, self.work)

    def spec(self, job_id: str) -> dict[str, Any]:
        """The spec a job ran with."""
        found: dict[str, Any] = yaml.safe_load(
            (self.root / "store" / "jobs" / job_id / "spec.yaml").read_text()
        )
        return found

    def assert_all_done(self, count: int) -> None:
        """Every job ended well, and the key is nowhere."""
        jobs = self.store.list()
        assert len(jobs) == count
        assert {job.state.value for job in jobs} == {"done"}, [
            (job.id, job.message, job.error) for job in jobs
        ]
        for path in (self.root / "store").rglob("*"):
            if path.is_file():
                assert KEY.encode() not in path.read_bytes(), path

    def wait(self, *variables: str) -> list[str]:
        """Lines that wait for jobs."""
        return [f'skillbank jobs wait "${name}" > /dev/null' for name in variables]


def shell(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("STAND_IN_IMPL", "stand_in_impl")
    return Shell(tmp_path, name)


def test_document_a_in_two_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvpanoptix3d as a service: two stages, evaluation, inference, export, none waited for in between."""
    a = shell(tmp_path, "nvpanoptix3d", monkeypatch)
    script = [
        a.line("A01"), a.line("A02"),
        'printf %s "$STAGE1_SPECS" > stage1_spec.yaml  # reader',
        a.line("A03"), a.line("A09"),
        'jq ".dataset.enable_3d = true" <<<"$STAGE2_SPECS" > stage2_spec.yaml  # reader',
        a.line("A10"), a.line("A14"),
        'printf %s "$EVALUATE_SPECS" > eval_spec.yaml  # reader',
        a.line("A15"), a.line("A17"),
        'printf %s "$INFERENCE_SPECS" > inference_spec.yaml  # reader',
        a.line("A18"), a.line("A20"),
        'printf %s "$EXPORT_SPECS" > export_spec.yaml  # reader',
        a.line("A21"),
        *a.wait("STAGE1_JOB_ID", "STAGE2_JOB_ID", "EVAL_JOB_ID", "INFER_JOB_ID", "EXPORT_JOB_ID"),
        lines()["A13"].replace("/results", "$SKILLBANK_HOME/jobs/$STAGE1_JOB_ID/results"),
    ]  # fmt: skip
    ids = a.run(script)
    a.assert_all_done(5)
    stage1, stage2 = ids["STAGE1_JOB_ID"], ids["STAGE2_JOB_ID"]
    assert f"/{stage1}/" in a.spec(stage2)["train"]["checkpoint_2d"]
    assert a.spec(stage2)["dataset"]["enable_3d"] is True
    assert f"/{stage2}/" in a.spec(ids["EVAL_JOB_ID"])["evaluate"]["checkpoint"]
    assert a.spec(ids["EVAL_JOB_ID"])["dataset"]["test"]["json_path"] == str(a.data / "meta" / "test.json")
    assert a.spec(ids["EXPORT_JOB_ID"])["export"]["onnx_file_2d"].endswith("model_2d.onnx")
    listed = (tmp_path / "stdout").read_text().split()
    assert {"model_epoch_000.pth", "model_epoch_001.pth", "panoptic_recon_3d_model_latest.pth"} <= set(listed)
    assert a.store.artifacts(ids["EXPORT_JOB_ID"], "onnx")


def test_document_a_in_the_foreground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvpanoptix3d as a launcher: every line runs to its end before the next."""
    a = shell(tmp_path, "nvpanoptix3d", monkeypatch)
    numbers = ("A06", "A11", "A12", "A16", "A19", "A22")
    a.run([f"{a.line(number)} | jq -r .state >> states" for number in numbers])
    assert (a.work / "states").read_text().split() == ["done"] * len(numbers)
    a.assert_all_done(len(numbers))
    assert (a.work / "results/stage2/train/nvpanoptix3d_model_latest.pth").is_file()
    assert (a.work / "inference_results/inference/predictions.json").is_file()
    assert (a.work / "output/model_2d.onnx").read_bytes() == b"onnx"


def script_of_the_older_client(of: Shell, numbers: tuple[str, ...]) -> list[str]:
    """C or D: get a spec, fill in the data, run the actions with it."""
    values = {}
    for action in ("train", "evaluate", "inference"):
        for block, content in data_values(of.name, action, of.data).items():
            values.setdefault(block, {}).update(content) if isinstance(content, dict) else values.update(
                {block: content}
            )
    (of.work / "data.json").write_text(json.dumps(values))
    first, *rest = (of.line(number) for number in numbers)
    return [first, 'SPECS=$(jq --slurpfile d data.json ". * \\$d[0]" <<<"$SPECS")  # reader', *rest]


def test_document_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """oneformer: the train spec serves every action, checkpoints come from a parent that may still run."""
    c = shell(tmp_path, "oneformer", monkeypatch)
    ids = c.run(
        [
            *script_of_the_older_client(c, ("C01", "C02", "C06", "C08", "C10")),
            *c.wait("TRAIN_JOB_ID", "EVAL_JOB_ID", "INFERENCE_JOB_ID", "EXPORT_JOB_ID"),
            lines()["C05"].replace("/results", "$SKILLBANK_HOME/jobs/$TRAIN_JOB_ID/results"),
            *(f"{c.line(number)} > /dev/null" for number in ("C03", "C07", "C09", "C11")),
        ]
    )
    c.assert_all_done(8)
    train = ids["TRAIN_JOB_ID"]
    for name, action in (
        ("EVAL_JOB_ID", "evaluate"),
        ("INFERENCE_JOB_ID", "inference"),
        ("EXPORT_JOB_ID", "export"),
    ):
        assert f"/{train}/" in c.spec(ids[name])[action]["checkpoint"]
    assert "oneformer_model_latest.pth" in (tmp_path / "stdout").read_text()
    assert c.store.get(train).experiment_id == "experiment-1"
    assert (c.work / "out/model.onnx").is_file()


def test_document_d(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sparse4d: flags in another order."""
    d = shell(tmp_path, "sparse4d", monkeypatch)
    ids = d.run(
        [
            *script_of_the_older_client(d, ("D03", "D04", "D05", "D06", "D07")),
            *d.wait("TRAIN_JOB_ID", "EVALUATE_JOB_ID", "INFERENCE_JOB_ID", "EXPORT_JOB_ID"),
        ]
    )
    d.assert_all_done(4)
    assert f"/{ids['TRAIN_JOB_ID']}/" in d.spec(ids["EVALUATE_JOB_ID"])["evaluate"]["checkpoint"]


def test_document_e(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mask2former: the launcher form; a second training in the same folder goes on from the link."""
    e = shell(tmp_path, "mask2former", monkeypatch)
    e.run(
        [
            *(f"{e.line(number)} > /dev/null" for number in ("E01", "E02")),
            lines()["E03"].replace("/results", "out"),
            *(f"{e.line(number)} > /dev/null" for number in ("E04", "E05", "E06")),
        ]
    )
    e.assert_all_done(5)
    assert {"mask2former_model_latest.pth", "model_epoch_002.pth"} <= set(
        (tmp_path / "stdout").read_text().split()
    )
