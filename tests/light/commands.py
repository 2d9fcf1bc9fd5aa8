"""Starts every light command of an installed wheel, in an environment without torch; prints what was seen.

Not collected by pytest: it runs with the light install's own Python, which has no test packages.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence

NETWORKS = ("mask2former", "nvpanoptix3d", "oneformer", "sparse4d")
LIGHT = [
    ["tao", "--version"],
    ["tao", "--help"],
    ["tao-client", "--help"],
    ["skillbank", "--help"],
    ["skillbank", "networks"],
    ["skillbank", "doctor"],
    ["skillbank", "skills", "list"],
    ["skillbank", "jobs", "list"],
    ["tao", "cluster", "nodes"],
]


def run(argv: Sequence[str], expect: int = 0) -> str:
    """The command's stdout; ends the program when the exit code is another than the expected one."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != expect:
        sys.exit(f"{' '.join(argv)}: exit {done.returncode}, expected {expect}\n{done.stdout}\n{done.stderr}")
    if "Traceback" in done.stderr:
        sys.exit(f"{' '.join(argv)}: traceback\n{done.stderr}")
    return done.stdout


def main() -> None:
    """Runs all of them."""
    if importlib.util.find_spec("torch"):
        sys.exit("this environment has torch, so nothing is shown about the light install")
    seen = 0
    for argv in LIGHT:
        run(argv)
        seen += 1
    for network in NETWORKS:
        first = json.loads(run(["tao", network, "list-base-experiments"]))[0]["id"]
        schema = json.loads(
            run(["tao", network, "get-job-schema", "--action", "train", "--base-experiment-id", first])
        )
        if not schema["default"]["train"]:
            sys.exit(f"{network}: the schema has no default")
        run(["tao-client", network, "get-spec", "--action", "train", "--job_type", "experiment", "--id", "x"])
        run(["tao", "model", network, "train", "-h"])
        seen += 4
    refused = subprocess.run(
        ["tao", "mask2former", "create-job", "--kind", "experiment", "--name", "n", "--action", "train",
         "--workspace-id", "w", "--specs", "{}", "--train-dataset-uri", "data", "--eval-dataset-uri", "data"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if refused.returncode != 5 or "skillbank[runtime]" not in refused.stderr:
        sys.exit(f"a train job without torch: exit {refused.returncode}\n{refused.stdout}\n{refused.stderr}")
    print(f"{seen + 1} passed, 0 failed")


if __name__ == "__main__":
    main()
