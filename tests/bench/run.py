"""Runs every ``bench_*.py`` of this folder and writes one table: what, median, ratio, allowed, machine.

A bench prints one JSON object or a list of them: ``name``, ``command``, ``median_s``, and where they
apply ``reference_s``, ``ratio``, ``allowed`` and ``unit`` (of median and reference, where it is not seconds).
Pairs are measured in turn.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def machine() -> str:
    """Processor, cores, Python: what a number depends on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}"


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| what | command | median | reference | ratio | allowed |", "|---|---|---|---|---|---|"]
    for row in rows:
        unit = row.get("unit", "s")
        reference = f"{row['reference_s']:.4f} {unit}" if row.get("reference_s") is not None else ""
        ratio = f"{row['ratio']:.3f}" if row.get("ratio") is not None else ""
        lines.append(
            f"| {row['name']} | `{row['command']}` | {row['median_s']:.4f} {unit} | {reference} | {ratio} | "
            f"{row.get('allowed', '')} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run, print and write the table; exit 1 when a bench fails to run."""
    rows: list[dict[str, Any]] = []
    for script in sorted(HERE.glob("bench_*.py")):
        print(f"{script.name} ...", file=sys.stderr)
        command = [sys.executable, str(script), *sys.argv[1:]]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
        rows.extend(found if isinstance(found, list) else [found])
    text = f"# Measured\n\nMachine: {machine()}\n\n{table(rows)}\n"
    out = ROOT / "bench"
    out.mkdir(exist_ok=True)
    (out / "bench.md").write_text(text)
    (out / "bench.json").write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
