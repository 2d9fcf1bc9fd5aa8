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
        NotFoundError: the file cannot be read.
    """
    text = given or in_spec or os.environ.get(KEY_VARIABLE) or ""
    if text.startswith("@"):
        try:
            text = Path(text[1:]).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as err:
            raise NotFoundError(
                f"encryption key: the file {text[1:]} cannot be read",
                hint=f"export {KEY_VARIABLE}=..., or name a text file",
                key="encryption_key",
            ) from err
    return EncryptionKey(text) if text else None
