"""Keeps secrets out of what is stored: the encryption key leaves the request, known values leave messages."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from skillbank.errors import InvalidValueError
from skillbank.jobs.record import Request

__all__ = ["digest", "is_secret_name", "scrub", "secret_values", "without_secrets"]

HIDDEN = "***"

_SECRET_NAME = re.compile(
    r"SECRET|TOKEN(?!IZ)|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|AUTHORIZATION"
    r"|(API|ACCESS|PRIVATE|ENCRYPTION)_?KEY|(^|_)(KEY|PASS)$|_(PWD|PAT)$",
    re.IGNORECASE,
)
_PLACE_NAME = re.compile(r"_(FILE|PATH|DIR)$", re.IGNORECASE)
_KEY_LEAF = "encryption_key"

# Shorter values would blank ordinary words out of messages.
_SHORTEST = 6


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name is taken to hold a secret."""
    return _SECRET_NAME.search(name) is not None and _PLACE_NAME.search(name) is None


def without_secrets(request: Request) -> tuple[Request, str | None]:
    """The request as it may be stored, and the encryption key that was in it.

    `encryption_key` leaves the spec and the overrides; variables with a secret's name leave the environment.

    Raises:
        InvalidValueError: an encryption key that is no text.
    """
    found: list[str] = []
    specs = _without_key(request.specs, found)
    overrides = {}
    for key, value in request.overrides.items():
        if key.rpartition(".")[2] == _KEY_LEAF:
            found.append(_key_text(value))
        else:
            overrides[key] = _without_key(value, found) if isinstance(value, Mapping) else value
    env = {name: value for name, value in request.env.items() if not is_secret_name(name)}
    keys = [key for key in found if key]
    return replace(request, specs=specs, overrides=overrides, env=env), keys[-1] if keys else None


def _without_key(values: Mapping[str, Any], found: list[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if key == _KEY_LEAF:
            found.append(_key_text(value))
        else:
            kept[key] = _without_key(value, found) if isinstance(value, Mapping) else value
    return kept


def _key_text(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple | bool):
        kind = (
            "a truth value"
            if isinstance(value, bool)
            else "a map"
            if isinstance(value, Mapping)
            else "a list"
        )
        raise InvalidValueError(
            f"{_KEY_LEAF}: {kind} is not allowed; use a text",
            hint="write the key in quotes, or use --encryption-key @FILE",
            key=_KEY_LEAF,
        )
    return "" if value is None else str(value)


def digest(secret: str) -> str:
    """Salted digest that tells whether two jobs had the same key without telling the key."""
    salt = os.urandom(16)
    hashed = hashlib.scrypt(secret.encode(), salt=salt, n=2**12, r=8, p=1, dklen=32)
    return f"scrypt:{salt.hex()}:{hashed.hex()}"


def secret_values(environ: Mapping[str, str], *others: str | None) -> tuple[str, ...]:
    """Values that must not appear in texts: those of variables with a secret's name, and `others`."""
    found = {value for name, value in environ.items() if is_secret_name(name)}
    found.update(value for value in others if value)
    return tuple(sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True))


def scrub(value: Any, hidden: Iterable[str]) -> Any:
    """The same text, or JSON-like value, with every hidden text blanked out.

    Bytes of file names that are no text become question marks: a message must not be lost over them.
    """
    if isinstance(value, str):
        value = value.encode("utf-8", "replace").decode()
        for secret in hidden:
            value = value.replace(secret, HIDDEN)
        return value
    if isinstance(value, Mapping):
        return {key: scrub(item, hidden) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(item, hidden) for item in value]
    return value
