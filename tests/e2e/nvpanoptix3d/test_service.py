"""The documented service script, pasted top to bottom: two stages, evaluation, inference, export as jobs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
import yaml
from command_lines import lines
from nvpanoptix3d_machine import Machine

from skillbank.jobs.store import JobStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("jq") is None and os.environ.get("CI") != "true", reason="jq is not there"
    ),
]

# what a reader does between two lines: saves the specs that were printed, and makes the network small
SAVED = {
    "A02": ("STAGE1_SPECS", "stage1_spec.yaml", "."),
    "A09": ("STAGE2_SPECS", "stage2_spec.yaml", ".dataset.enable_3d = true"),
    "A14": ("EVALUATE_SPECS", "eval_spec.yaml", ".dataset.enable_3d = true"),
    "A17": ("INFERENCE_SPECS", "inference_spec.yaml", ".dataset.enable_3d = true"),
    "A20": ("EXPORT_SPECS", "export_spec.yaml", "."),
}
IDS = ("STAGE1_JOB_ID", "STAGE2_JOB_ID", "EVAL_JOB_ID", "INFER_JOB_ID", "EXPORT_JOB_ID")


def script() -> str:
    text = ["set -euo pipefail"]
    for number in ("A01", "A02", "A03", "A09", "A10", "A14", "A15", "A17", "A18", "A20", "A21"):
        text.append(lines()[number])
        if number in SAVED:
            name, file, change = SAVED[number]
            text.append(f'jq --slurpfile tiny tiny.json ". * \\$tiny[0] | {change}" <<<"${name}" > {file}')
    text += [f'skillbank jobs wait "${name}" > /dev/null' for name in IDS]
    text += [f'echo "{name}=${name}"' for name in IDS]
    return "\n".join(text)


def test_the_service_script(machine: Machine) -> None:
    work = machine.root / "service"
    work.mkdir()
    tiny = yaml.safe_load(machine.spec(1).read_text())
    kept = (
        "target_size",
        "reduced_target_size",
        "depth_size",
        "min_instance_pixels",
        "augmentation",
        "contiguous_id",
    )
    tiny["dataset"] = {name: tiny["dataset"][name] for name in kept}
    (work / "tiny.json").write_text(json.dumps(tiny))
    done = subprocess.run(
        ["bash", "-c", script()],
        cwd=work, env={**machine.env, "WORKSPACE_ID": "documents", "DATASET_URI": str(machine.data)},
        capture_output=True, text=True, check=False, timeout=290, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ids = dict(line.split("=", 1) for line in done.stdout.splitlines() if "_JOB_ID=" in line)
    store = JobStore(machine.root / "store")
    try:
        jobs = {name: store.get(ids[name]) for name in IDS}
    finally:
        store.close()
    assert {job.state.value for job in jobs.values()} == {"done"}, [job.error for job in jobs.values()]
    results = {name: machine.root / "store" / "jobs" / ids[name] / "results" for name in IDS}
    metrics = json.loads((results["EVAL_JOB_ID"] / "evaluate" / "metrics.json").read_text())["metrics"]
    assert {"PRQ", "RSQ", "RRQ"} <= set(metrics)
    assert (results["INFER_JOB_ID"] / "inference" / "index.html").is_file()
    onnx_files = list(results["EXPORT_JOB_ID"].rglob("*.onnx"))
    assert [path.name for path in onnx_files] == ["model_2d.onnx"]
