"""1 000 S3 objects of 256 kB through `Storage.fetch_tree`, against one-by-one boto3 downloads of them.

The server is moto in a process of its own on loopback, with 30 ms added to each request. Both sides write
files. `get_object` in a loop is the reference of the ratio: one request for each object, the fastest way one
by one; `download_file`, which asks for the size first, is measured on a part and reported beside it.
Prints JSON; ``--pairs N`` for the number of pairs (default 3).
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))
from s3_server import CREDENTIALS, client_for, server_process

COUNT = 1000
BYTES = 256_000
LATENCY_S = 0.030
ALLOWED = 0.15
BUCKET = "bench-bucket"


def fill(url: str) -> None:
    """Put the objects there, without latency."""
    client = client_for(url, max_pool_connections=8)
    client.create_bucket(Bucket=BUCKET)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: client.put_object(Bucket=BUCKET, Key=f"set/{i // 100:02d}/{i:05d}.bin",
                                                  Body=os.urandom(BYTES)), range(COUNT)))  # fmt: skip
    client.close()


def keys() -> list[str]:
    """Names of all objects."""
    return [f"set/{i // 100:02d}/{i:05d}.bin" for i in range(COUNT)]


def one_by_one(client: Any, into: Path) -> float:
    """Seconds for all objects with `get_object` in a loop."""
    start = time.perf_counter()
    for key in keys():
        (into / key.replace("/", "_")).write_bytes(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    return time.perf_counter() - start


def download_file(client: Any, into: Path, count: int) -> float:
    """Seconds for all objects with `download_file`, extrapolated from the first `count`."""
    start = time.perf_counter()
    for key in keys()[:count]:
        client.download_file(BUCKET, key, str(into / key.replace("/", "_")))
    return (time.perf_counter() - start) * COUNT / count


def ours(into: Path) -> tuple[float, float]:
    """Seconds for `fetch_tree` with an empty cache, connecting included, and for doing it again."""
    from skillbank.storage import Storage

    start = time.perf_counter()
    with Storage(into) as storage:
        folder = storage.fetch_tree(f"s3://{BUCKET}/set")
        first = time.perf_counter() - start
        start = time.perf_counter()
        storage.fetch_tree(f"s3://{BUCKET}/set")
        again = time.perf_counter() - start
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert len(found) == COUNT
    assert all(path.stat().st_size == BYTES for path in found)
    return first, again


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=3)
    pairs = parser.parse_args().pairs
    os.environ.update(CREDENTIALS)
    slow, fast, repeated = [], [], []
    with server_process() as (url, set_latency):
        fill(url)
        set_latency(LATENCY_S)
        os.environ["AWS_ENDPOINT_URL"] = url
        client = client_for(url)
        for _ in range(pairs):
            work = Path(tempfile.mkdtemp())
            try:
                (work / "one").mkdir()
                slow.append(one_by_one(client, work / "one"))
                first, again = ours(work / "ours")
                fast.append(first)
                repeated.append(again)
                managed = download_file(client, work / "one", 100)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        client.close()
    ratios = [ours_s / theirs_s for ours_s, theirs_s in zip(fast, slow, strict=True)]
    what = f"{COUNT} S3 objects of {BYTES // 1000} kB, {LATENCY_S * 1000:.0f} ms latency"
    rows = [
        {
            "name": f"{what}: fetch_tree against get_object one by one",
            "command": "python tests/bench/bench_s3.py",
            "median_s": statistics.median(fast),
            "reference_s": statistics.median(slow),
            "ratio": statistics.median(ratios),
            "allowed": f"<= {ALLOWED}",
            "ratios": ratios,
            "download_file_s": managed,
        },
        {
            "name": f"{what}: fetch_tree again, nothing changed",
            "command": "python tests/bench/bench_s3.py",
            "median_s": statistics.median(repeated),
        },
    ]
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
