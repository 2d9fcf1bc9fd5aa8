"""Files that an action was told to write: recorded once they are there."""

from __future__ import annotations

from pathlib import Path

from skillbank_runners.actions.context import Running
from skillbank_runners.trainer import setting_of

__all__ = ["register_outputs"]

_KINDS = {".onnx": "onnx", ".engine": "engine", ".plan": "engine", ".pth": "checkpoint"}


def register_outputs(job: Running) -> None:
    """Record the files at the spec keys which the skill declares as outputs, where they exist."""
    for key, output in job.info.outputs.items():
        given = setting_of(job.spec, key)
        if output.type != "file" or not isinstance(given, str) or not given:
            continue
        path = Path(given)
        kind = _KINDS.get(path.suffix)
        if kind is not None and path.is_file():
            job.register(path, kind)
