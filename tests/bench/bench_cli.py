"""Wall time of light command lines next to the imports that any such program pays for, taken in turns."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent
IMPORTS = [sys.executable, "-c", "import pydantic, typer, yaml"]
FIRST = "nvpanoptix3d-front3d-2d"
ALLOWED = 1.5
COMMANDS = {
    "print a train schema": "tao mask2former get-job-schema --action train",
    "print it with a base experiment": (
        f"tao nvpanoptix3d get-job-schema --action train --base-experiment-id {FIRST}"
    ),
    "print a default spec": "tao-client oneformer get-spec --action train --job_type experiment --id x",
}


def seconds(argv: list[str], env: dict[str, str]) -> float:
    """Wall time of one process."""
    start = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, env=env)
    return time.perf_counter() - start


def measured(name: str, line: str, rounds: int, env: dict[str, str]) -> dict[str, object]:
    """Medians of command and imports, run in turns so that both see the same machine."""
    program, *words = line.split()
    argv = [str(BIN / program), *words]
    for warm_up in (argv, IMPORTS):
        seconds(warm_up, env)
    pairs = [(seconds(argv, env), seconds(IMPORTS, env)) for _ in range(rounds)]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(mine / other for mine, other in pairs)
    return {
        "name": name,
        "command": line,
        "median_s": ours,
        "reference_s": theirs,
        "ratio": ratio,
        "allowed": f"{ALLOWED} x python -c 'import pydantic, typer, yaml'",
    }


def main() -> None:
    """Measure all and print the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    given, _ = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "SKILLBANK_HOME": home}
        rows = [measured(name, line, given.rounds, env) for name, line in COMMANDS.items()]
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
