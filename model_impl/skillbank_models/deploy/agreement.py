"""Whether a spec has the settings that are inside an exported file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from skillbank.errors import ConflictError, SkillBankError, collect

__all__ = ["check_settings"]

_ROUNDING = 1e-6  # of numbers that went through text


def check_settings(
    metadata: Mapping[str, str], settings: Mapping[str, tuple[Any, Any]], *, network: str, where: str
) -> None:
    """Refuse a file of another network, or one that was exported for other settings than the spec's.

    Args:
        metadata: what the file says about itself; files of other programs say nothing and pass.
        settings: dotted key -> value in the file, value in the spec.
        network: which the file should hold.
        where: the file, for messages.

    Raises:
        ConflictError: lists every setting that differs.
    """
    problems: list[SkillBankError] = []
    if metadata.get("network", network) != network:
        problems.append(ConflictError(f"{where} holds the network {metadata['network']}, not {network}"))
    for key, (found, wanted) in settings.items():
        if not _equal(found, wanted):
            problems.append(
                ConflictError(
                    f"{key}: {where} was exported with {found}, the spec says {wanted}",
                    hint=f"'{key}={found if isinstance(found, str) else json.dumps(found)}'",
                    key=key,
                    value=wanted,
                )
            )
    if problems:
        raise collect(problems, where)


def _equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(
            abs(a - b) < _ROUNDING for a, b in zip(found, wanted, strict=True)
        )
    return bool(found == wanted)
