"""Keeps the debug logs of the transfer libraries shut: they print signatures, tokens and signed links."""

from __future__ import annotations

import logging

__all__ = ["quiet_wire_logs"]

_WIRE = ("boto3", "botocore", "s3transfer", "urllib3")


def quiet_wire_logs() -> None:
    """Raise these loggers to INFO where an application turned on DEBUG; called on connecting."""
    for name in _WIRE:
        logger = logging.getLogger(name)
        if logger.getEffectiveLevel() < logging.INFO:
            logger.setLevel(logging.INFO)
