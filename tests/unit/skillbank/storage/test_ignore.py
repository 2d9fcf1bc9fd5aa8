from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from skillbank.storage.ignore import Ignore


@pytest.mark.parametrize(
    ("lines", "left_out", "kept"),
    [
        (["inputs/"], ["inputs/a", "x/inputs/a"], ["inputs", "inputs.txt", "a/inputs"]),
        (["/inputs/"], ["inputs/a"], ["x/inputs/a"]),
        (["*.pth", "!best.pth"], ["a.pth", "d/a.pth"], ["best.pth", "d/best.pth"]),
        (["logs/*", "!logs/keep/"], ["logs/a", "logs/d/x"], ["logs/keep/x"]),
        (["logs/", "!logs/keep"], ["logs/keep"], ["other/keep"]),
        (["a/**/z"], ["a/z", "a/b/z", "a/b/c/z"], ["z", "b/a/z"]),
        (["**/tmp"], ["tmp", "x/tmp", "x/tmp/y"], ["tmpx"]),
        (["out/**"], ["out/a", "out/a/b"], ["out"]),
        (["?.log"], ["a.log"], ["ab.log"]),
        (["[a-c]x"], ["bx"], ["dx"]),
        (["[!a-c]x"], ["dx"], ["bx"]),
        (["# note", "", "   ", r"\#x", r"\!y"], ["#x", "!y"], ["note", "# note"]),
        (["trail   ", r"space\ "], ["trail", "space "], ["trail ", "space"]),
        (["[open"], [], ["[open", "o"]),
    ],
)
def test_meaning(lines: list[str], left_out: list[str], kept: list[str]) -> None:
    ignore = Ignore(lines)
    assert [name for name in left_out if not ignore.matches(name)] == []
    assert [name for name in kept if ignore.matches(name)] == []


def test_nothing_is_left_out_without_patterns() -> None:
    assert not Ignore([])
    assert not Ignore(["# only a note"]).matches("x")


@pytest.mark.skipif(
    shutil.which("git") is None, reason="git, whose answers are compared with, is not installed"
)
@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_git(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    names = [
        f"{a}/{b}/{c}" for a in ("a", "b", "log") for b in ("a", "tmp.d", "x1") for c in ("a", "x.log", "b2")
    ]
    names += ["a.log", "x1", "logs", "top/a"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    # Left out: two stars beside other characters, where git itself depends on what stands before them.
    pieces = [
        "a",
        "b",
        "*",
        "**",
        "?",
        "x1",
        "*.log",
        "log*",
        "[a-b]",
        "[!a]*",
        "tmp.d",
        "x*",
        r"\*",
        "*[0-9]",
    ]
    compared = 0
    for _ in range(25):
        lines = []
        for _ in range(rng.randint(1, 4)):
            body = "/".join(rng.choice(pieces) for _ in range(rng.randint(1, 3)))
            lines.append(
                rng.choice(["", "", "!"]) + rng.choice(["", "", "/"]) + body + rng.choice(["", "", "/"])
            )
        (tmp_path / ".git" / "info" / "exclude").write_text("\n".join(lines) + "\n")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), "check-ignore", "--no-index", "--stdin"],
            input="\n".join(names), capture_output=True, text=True, check=False,
        )  # fmt: skip
        expected = set(done.stdout.splitlines())
        ours = {name for name in names if Ignore(lines).matches(name)}
        assert ours == expected, lines
        compared += len(names)
    assert compared == 25 * len(names)
