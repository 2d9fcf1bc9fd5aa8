"""Time to list a store of many jobs; prints one JSON object.

    python tests/bench/bench_jobs.py [--jobs 10000] [--rounds 7]

The jobs carry specs of a realistic size, and every hundredth is still running.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from skillbank.jobs.processes import this_process
from skillbank.jobs.record import Datasets, Job, Request
from skillbank.jobs.store import JobStore

RUNNING_EVERY = 100

SPEC = {
    "model_name": "mask2former",
    "dataset": {
        part: {
            "type": "coco_panoptic",
            "img_dir": f"/data/{part}/images",
            "panoptic_json": f"/data/{part}.json",
        }
        | {f"augmentation_{index}": [0.485, 0.456, 0.406] for index in range(10)}
        for part in ("train", "val", "test")
    },
    "train": {
        f"setting_{index}": {"value": index, "scale": index / 7, "name": "x" * 12} for index in range(40)
    },
}


def fill(store: JobStore, count: int) -> None:
    """Record `count` jobs: one through the store, the others as copies of its row under ids of their own."""
    request = Request(
        network="mask2former", action="train", specs=SPEC, datasets=Datasets(train=("/data/train",))
    )
    first = store.create(request, tags=("bench", "copy"))
    ref = {
        "worker": this_process().to_dict(),
        "supervisor": this_process().to_dict(),
        "folder": str(first.folder),
    }
    store.set_backend(first.id, ref)
    with sqlite3.connect(store.home / "store.db", isolation_level=None) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(jobs)")]
        row = dict(zip(columns, connection.execute("SELECT * FROM jobs").fetchone(), strict=True))
        names = [name for name in columns if name != "seq"]
        insert = f"INSERT INTO jobs ({', '.join(names)}) VALUES ({', '.join(':' + name for name in names)})"
        move = "INSERT INTO transitions (job_id, ts, state, message, source) VALUES (?, ?, ?, '', 'worker')"
        connection.execute("BEGIN")
        for index in range(1, count):
            job_id = f"mask2former-train-{index:06x}"
            connection.execute(insert, {**row, "id": job_id})
            connection.execute(
                "INSERT INTO requests SELECT ?, text FROM requests WHERE job_id = ?", (job_id, first.id)
            )
            for state in ("pending", "running") + (("done",) if index % RUNNING_EVERY else ()):
                connection.execute(move, (job_id, row["created_at"], state))
        connection.execute("COMMIT")
    connection.close()


def timed(store: JobStore) -> tuple[float, list[Job]]:
    """Seconds that a listing takes with what a table shows of each job, and the jobs."""
    started = time.perf_counter()
    jobs = store.list()
    table = [
        (job.id, job.name, job.network, job.action, job.state, job.created_at, job.message) for job in jobs
    ]
    seconds = time.perf_counter() - started
    assert len(table) == len(jobs)
    return seconds, jobs


def main() -> None:
    """Fill a store in a temporary folder, list it several times, print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_known_args()[0]
    with tempfile.TemporaryDirectory() as folder, JobStore(Path(folder) / "home") as store:
        fill(store, arguments.jobs)
        with JobStore(store.home) as other:
            cold_s, jobs = timed(other)
        assert len(jobs) == arguments.jobs
        assert jobs[0].request.specs == SPEC
        times = [timed(store)[0] for _ in range(arguments.rounds)]
        size = (store.home / "store.db").stat().st_size
    result = {
        "name": f"list {arguments.jobs} jobs",
        "command": "JobStore().list()",
        "median_s": round(statistics.median(times), 4),
        "worst_s": round(max(times), 4),
        "first_s": round(cold_s, 4),
        "allowed": "0.2 s",
        "request_bytes": len(json.dumps(SPEC)),
        "store_bytes": size,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
