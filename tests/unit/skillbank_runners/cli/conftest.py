"""Command lines inside the test process."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from skillbank_runners.cli import skillbank, tao, tao_client

PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "tao": tao.main,
    "tao-client": tao_client.main,
    "skillbank": skillbank.main,
}


@dataclass(frozen=True)
class Outcome:
    """How a command line ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """What stdout holds."""
        import json

        return json.loads(self.out)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store and a home folder of the test's own, and no settings from outside."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SKILLBANK_HOME", str(home / "store"))
    for name in ("SKILLBANK_NETWORKS", "SKILLBANK_DEBUG", "SKILLBANK_ENCRYPTION_KEY", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs ``program, word, word ...`` and tells exit code, stdout and stderr."""

    def run(program: str, *words: str) -> Outcome:
        capsys.readouterr()
        code = PROGRAMS[program](list(words))
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
