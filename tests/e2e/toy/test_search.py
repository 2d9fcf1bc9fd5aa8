"""A search on the command line with real workers: trials, the best one, and a job that starts from it."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_impl import write_points

from skillbank.generate.schemas import action_schema, dumped
from skillbank.generate.templates import spec_template
from skillbank.jobs.store import JobStore

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
NETWORK = """
from dataclasses import replace
from pathlib import Path
import toy_network
NETWORK = replace(toy_network.NETWORK, skill_path=Path(__file__).parent / "skill")
"""


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A shell that knows the toy network with AutoML enabled, schema and template packaged."""
    monkeypatch.setenv("SKILLBANK_NETWORKS", "toy_network")
    skill = tmp_path / "skill"
    shutil.copytree(FIXTURES / "toy_skill", skill)
    info = skill / "references/skill_info.yaml"
    info.write_text(f"automl_enabled: true\n{info.read_text()}")
    schema = action_schema("toy", "train")
    (skill / "schemas").mkdir()
    (skill / "schemas/train.schema.json").write_bytes(dumped(schema))
    (skill / "references/spec_template_train.yaml").write_text(spec_template("toy", "train", schema))
    (tmp_path / "searchable_toy.py").write_text(NETWORK)
    (tmp_path / "points").mkdir()
    write_points(tmp_path / "points/points.txt", 48)
    return {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "SKILLBANK_HOME": str(tmp_path / "store"),
        "SKILLBANK_NETWORKS": "searchable_toy",
        "PYTHONPATH": f"{tmp_path}:{FIXTURES}",
    }


def run(env: dict[str, str], folder: Path, *words: str) -> dict[str, object]:
    """Run a command that prints one JSON object."""
    done = subprocess.run(
        words, cwd=folder, env=env, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_search_then_evaluate_its_best_trial(env: dict[str, str], tmp_path: Path) -> None:
    search = run(
        env, tmp_path, "skillbank", "automl", "run", "toy", "train.num_epochs=2", "--trials", "3",
        "--param", "train.optim.lr", "--train", "points", "--eval", "points", "--wait",
    )  # fmt: skip
    shown = run(env, tmp_path, "skillbank", "automl", "show", str(search["id"]))
    assert shown["state"] == "done"
    trials = shown["all_recs"]
    best = shown["best"]
    assert isinstance(trials, list)
    assert isinstance(best, dict)
    assert [trial["state"] for trial in trials] == ["done"] * 3
    assert len({trial["values"]["train.optim.lr"] for trial in trials}) == 3
    assert best["value"] == max(trial["value"] for trial in trials)

    rates = set()
    for trial in trials:
        job = run(env, tmp_path, "skillbank", "jobs", "show", trial["job_id"])
        assert f"trial-of:{search['id']}" in job["tags"]  # type: ignore[operator]
        spec = (Path(str(job["folder"])) / "spec.yaml").read_text()
        rates.add(next(line for line in spec.splitlines() if line.strip().startswith("lr:")))
    assert len(rates) == 3

    evaluate = run(
        env, tmp_path, "tao", "toy", "create-job", "--action", "evaluate", "--specs", "{}",
        "--parent-job-id", str(search["id"]), "--eval-dataset-uri", "points", "--dry-run", "--explain",
    )  # fmt: skip
    assert best["checkpoint"] in json.dumps(evaluate)


def test_a_canceled_search_ends_its_trials_and_keeps_the_best(env: dict[str, str], tmp_path: Path) -> None:
    """One trial trains, one waits for the device; both end with the search."""
    search = run(
        env, tmp_path, "skillbank", "automl", "run", "toy", "train.num_epochs=100000", "--trials", "4",
        "--concurrent", "2", "--param", "train.optim.lr", "--train", "points", "--eval", "points",
    )  # fmt: skip
    store = JobStore(tmp_path / "store")
    end = time.monotonic() + 60
    while not any(store.artifacts(job.id, "checkpoint") for job in store.list()):
        assert time.monotonic() < end, "no trial wrote a checkpoint"
        time.sleep(0.1)
    run(env, tmp_path, "skillbank", "jobs", "cancel", str(search["id"]))
    jobs = store.list()
    assert len(jobs) == 3
    assert [job.state for job in jobs] == ["canceled"] * 3
    shown = run(env, tmp_path, "skillbank", "automl", "show", str(search["id"]))
    assert shown["best"]["checkpoint"].endswith(".pth")  # type: ignore[index]
    assert store.artifacts(str(search["id"]), "best_trial")
