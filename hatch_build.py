"""Build hook: wheels carry the bank's files below ``skillbank/_bank``; editable ones read the checkout."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BANK = ("skills", "schemas", "references", "manifest.json")


class BankHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the files of the bank to wheels."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Register every bank folder and file; `version` is ``editable`` for editable installs."""
        if version == "editable":
            return
        for name in BANK:
            build_data["force_include"][str(Path(self.root) / name)] = f"skillbank/_bank/{name}"
