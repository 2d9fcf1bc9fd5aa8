"""Rules of the house that a tool can check, each shown to fail on a planted fault."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
MARK = "# placed here by the test"


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on a copy of the source roots."""
    path = [str(root / part) for part in ("sdk", "runners", "model_impl")]
    return subprocess.run(
        [str(BIN / "lint-imports"), "--config", str(root / "pyproject.toml"), "--no-cache"],
        cwd=root, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": ":".join(path), "PATH": str(BIN)},
    )  # fmt: skip


def copy_of_the_sources(tmp_path: Path) -> Path:
    """The three source roots and the settings, without anything else."""
    for part in ("sdk", "runners", "model_impl"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_import_directions_hold_and_the_check_can_fail(tmp_path: Path) -> None:
    root = copy_of_the_sources(tmp_path)
    clean = lint_imports(root)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    assert "2 kept, 0 broken" in clean.stdout

    planted = root / "sdk/skillbank/metrics.py"
    text = planted.read_text(encoding="utf-8")
    planted.write_text(f"{text}\nimport torch  {MARK}\n", encoding="utf-8")
    assert "1 kept, 1 broken" in lint_imports(root).stdout

    planted.write_text(f"{text}\nimport skillbank_runners  {MARK}\n", encoding="utf-8")
    upwards = lint_imports(root)
    assert upwards.returncode != 0
    assert "1 kept, 1 broken" in upwards.stdout


def test_heavy_imports_at_module_level_are_refused(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text('"""A module."""\n\nimport torch\n\nprint(torch)\n', encoding="utf-8")
    done = subprocess.run(
        [str(BIN / "ruff"), "check", "--config", str(ROOT / "pyproject.toml"), "--no-cache", str(planted)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "TID253" in done.stdout
    assert "T201" in done.stdout


def test_no_machine_paths_and_no_index_addresses() -> None:
    """Nothing that ships names a home folder, this checkout or a package index."""
    wrong = re.compile(r"/(?:root|home/\w+|Users/\w+)/|--(?:extra-)?index-url|https?://[^\s`'\"]*/simple/?\b")
    seen = 0
    for folder in ("sdk", "runners", "model_impl", "skills", "schemas", "references"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".md", ".yaml", ".json", ".sh"}:
                text = path.read_text(encoding="utf-8")
                seen += 1
                assert str(ROOT) not in text, path
                assert not wrong.search(text), f"{path}: {wrong.search(text)}"
    assert seen > 50


def test_torch_is_bounded_and_pinned() -> None:
    assert '"torch>=2.9,<2.14"' in (ROOT / "pyproject.toml").read_text()
    constraints = (ROOT / "constraints.txt").read_text()
    assert "torch==2.13.0" in constraints
    assert "python-dateutil<3" in constraints
