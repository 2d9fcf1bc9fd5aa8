"""Checking a spec in one process: reading the YAML text, aliases, types, bounds, options and relations."""

import json
import statistics
import time

from skillbank.specs import network_names
from skillbank.specs.load import Layer, build_spec, default_spec, load_yaml, to_yaml

ROUNDS = 30
ALLOWED_S = 0.020


def main() -> None:
    """Median over all networks of one full check of the complete train spec, and of the slowest network."""
    medians = {}
    for name in network_names():
        text = to_yaml(default_spec(name, "train"))
        times = []
        for _ in range(ROUNDS + 1):
            start = time.perf_counter()
            build_spec(name, "train", [Layer("file", "spec.yaml", load_yaml(text, "spec.yaml"))], draft=True)
            times.append(time.perf_counter() - start)
        medians[name] = statistics.median(times[1:])  # the first round builds the tables
    built = {}
    for name in network_names():
        nested = default_spec(name, "train")
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            build_spec(name, "train", [Layer("file", "spec", nested)], draft=True)
            times.append(time.perf_counter() - start)
        built[name] = statistics.median(times)
    slowest = max(built, key=built.__getitem__)
    parsed = max(medians, key=medians.__getitem__)
    print(
        json.dumps(
            [
                {
                    "name": f"validate a train spec in process, slowest network ({slowest})",
                    "command": "build_spec",
                    "median_s": built[slowest],
                    "allowed": f"{ALLOWED_S * 1000:.0f} ms",
                    "ratio": built[slowest] / ALLOWED_S,
                },
                {
                    "name": f"the same with parsing its YAML ({parsed})",
                    "command": "load_yaml + build_spec", "median_s": medians[parsed],
                },
            ],
            indent=2,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
