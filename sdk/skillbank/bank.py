"""Where the files of the bank are: in the checkout, or below the installed package."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from skillbank.errors import BackendError

__all__ = ["bank_root", "home", "is_installed_copy", "skill_folder"]

_PACKAGE = Path(__file__).resolve().parent


@cache
def bank_root() -> Path:
    """The folder that holds ``skills/``, ``schemas/``, ``references/`` and ``manifest.json``.

    Raises:
        BackendError: neither a checkout around this package nor a copy inside it.
    """
    checkout = _PACKAGE.parent.parent
    for candidate in (_PACKAGE / "_bank", checkout):
        if (candidate / "skills").is_dir() and (candidate / "schemas").is_dir():
            return candidate
    raise BackendError(
        f"the files of the bank are neither in {checkout} nor in {_PACKAGE / '_bank'}",
        hint="reinstall: pip install --force-reinstall skillbank",
    )


def is_installed_copy() -> bool:
    """True when the bank was installed from a wheel, where nothing may be generated."""
    return bank_root() == _PACKAGE / "_bank"


def skill_folder(skill: str) -> Path:
    """The folder of a skill of the bank; existence is not checked."""
    return bank_root() / "skills" / skill


def home() -> Path:
    """Where jobs, caches and the store live: ``SKILLBANK_HOME``, else ``~/.skillbank``; not created here."""
    given = os.environ.get("SKILLBANK_HOME", "").strip()
    return Path(given).expanduser().resolve() if given else Path.home() / ".skillbank"
