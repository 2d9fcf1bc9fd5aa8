"""The launcher form and `--wait` with a real worker: failures, Ctrl-C, and secrets that stay out of sight."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from toy_impl import write_points

from skillbank.jobs.states import State
from skillbank.jobs.store import JobStore

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
KEY = "a-key-nobody-may-see-5512"


class Place:
    """A folder with points, and the variables of a shell that knows the toy network."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.points = write_points(root / "points.txt", 16)
        self.store = JobStore(root / "store")
        self.env = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(root),
            "SKILLBANK_HOME": str(root / "store"),
            "SKILLBANK_NETWORKS": "toy_network",
            "PYTHONPATH": str(FIXTURES),
        }
        (root / "spec.yaml").write_text(f"dataset: {{train_file: {self.points.name}}}\nresults_dir: out\n")

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command line in the folder."""
        return subprocess.Popen(
            list(words), cwd=self.root, env=self.env, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            # a shell that runs the tests in the background lets them ignore Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
        )  # fmt: skip

    def run(self, *words: str) -> tuple[int, str, str]:
        """Run a command line to its end."""
        process = self.start(*words)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    for job in found.store.list():
        assert job.state.is_final, f"{job.id} was left {job.state}"


def until(condition: Callable[[], bool], patience_s: float = 60.0) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_foreground_job_ends_with_its_command(number: signal.Signals, place: Place) -> None:
    """Ctrl-C, and being told to end, cancel the job; while it runs no process shows the key."""
    gate, hold = place.root / "gate", place.root / "gate.hold"
    hold.write_text("1")
    process = place.start(
        "tao", "toy", "train", "-e", "spec.yaml", f"train.gate={gate}", "--encryption-key", KEY, "-o", "json"
    )
    until(lambda: gate.exists() or process.poll() is not None)
    (job,) = place.store.list()
    assert job.state is State.RUNNING
    others = [path for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.name != str(process.pid)]
    seen = 0
    for path in others:
        try:
            words = path.read_bytes()
        except OSError:
            continue
        seen += job.id.encode() in words
        assert KEY.encode() not in words
    assert seen, "the worker's own command line was not looked at"
    process.send_signal(number)
    until(lambda: place.store.get(job.id).state is not State.RUNNING)
    hold.unlink()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(out)["state"] == "canceled"
    assert f"stopping {job.id}" in err
    assert KEY not in out + err
    for path in place.store.home.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_a_failed_job_is_exit_6_with_its_own_hint(place: Place) -> None:
    """In the foreground and with --wait; a child of the failed job fails too and says why."""
    code, out, err = place.run(
        "tao", "model", "toy", "train", "-e", "spec.yaml", "train.fail=memory", "-o", "json"
    )
    assert code == 6
    failed = json.loads(out)
    assert failed["state"] == "error"
    assert (place.root / "out" / "train" / "status.json").is_file()
    error = json.loads(err.splitlines()[-1])["error"]
    assert error["code"] == "job.out-of-memory"
    assert "dataset.batch_size" in error["hint"]
    assert "Traceback" not in err.splitlines()[-2]
    code, out, err = place.run(
        "tao", "toy", "create-job", "--action", "evaluate", "--specs", "@spec.yaml",
        "--parent-job-id", failed["id"], "dataset.test_file=points.txt", "--wait",
    )  # fmt: skip
    assert code == 6, err
    assert failed["id"] in err


def test_jobs_in_the_background_and_the_same_key_again(place: Place) -> None:
    """create-job returns at once, an idempotency key gives the first job again, logs can be followed."""
    words = ("tao", "toy", "create-job", "--action", "train", "--specs", "@spec.yaml", "--workspace-id", "w",
             "--idempotency-key", "once", "train.num_epochs=1")  # fmt: skip
    code, out, err = place.run(*words)
    assert code == 0, err
    assert "note: workspace 'w' is new here and now remembered" in err
    first = json.loads(out)
    assert (first["workspace_id"], first["is_duplicate"]) == ("w", False)
    code, out, err = place.run(*words)
    again = json.loads(out)
    assert (code, again["id"], again["is_duplicate"]) == (0, first["id"], True)
    assert "nothing was started" in err
    assert "remembered" not in err
    code, out, err = place.run("skillbank", "jobs", "watch", first["id"])
    assert (code, json.loads(out)["state"]) == (0, "done")
    assert "epoch 1 of 1" in err
    code, out, _ = place.run("tao", "toy", "get-job-logs", first["id"], "--follow")
    assert code == 0
    assert "saved model_epoch_000.pth" in out
