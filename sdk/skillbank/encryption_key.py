"""The encryption key of a request: accepted for compatibility, kept out of all that is printed or stored."""

from __future__ import annotations

import os
from pathlib import Path

from skillbank.errors import NotFoundError

__all__ = ["KEY_VARIABLE", "EncryptionKey", "read_key"]

KEY_VARIABLE = "SKILLBANK_ENCRYPTION_KEY"


class EncryptionKey:
    """A secret text that shows itself only when asked for by `reveal`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text; for the job's key file only."""
        return self._text

    def __repr__(self) -> str:
        return "EncryptionKey(***)"


def read_key(given: str | None, in_spec: str | None = None) -> EncryptionKey | None:
    """The key as given, from ``@FILE``, from the spec, or from the variable SKILLBANK_ENCRYPTION_KEY.

    Raises:
        NotFoundError: the file cannot be read, or is empty.
    """
    text = given or in_spec or os.environ.get(KEY_VARIABLE) or ""
    if text.startswith("@"):
        place = text[1:]
        try:
            text = Path(place).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as err:
            raise NotFoundError(
                f"encryption key: the file {place} cannot be read",
                hint=f"export {KEY_VARIABLE}=..., or name a text file",
                key="encryption_key",
            ) from err
        if not text:
            raise NotFoundError(
                f"encryption key: the file {place} is empty", hint=f"ls -l {place}", key="encryption_key"
            )
    return EncryptionKey(text) if text else None
