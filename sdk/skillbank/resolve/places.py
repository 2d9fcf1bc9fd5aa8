"""Relative paths of a request, made absolute: a job runs in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from skillbank.errors import InvalidValueError, collect
from skillbank.jobs.record import Datasets
from skillbank.resolve.sources import FLAGS, given_roots
from skillbank.resolve.values import is_set
from skillbank.skill_info import SkillInfo
from skillbank.storage.uri import is_remote, parse

__all__ = ["absolute", "absolute_datasets", "absolute_places"]


def absolute(place: str, folder: Path) -> str:
    """A path as seen from `folder`; URIs, references and absolute paths stay as they are."""
    if not place.strip() or is_remote(place) or "://" in place or "${" in place or place == "???":
        return place
    return str(folder / Path(place).expanduser())


def absolute_datasets(datasets: Datasets, folder: Path) -> Datasets:
    """The same dataset roots, independent of the current folder.

    Raises:
        InvalidValueError: roots that are no places, such as addresses of an unknown scheme; all are named.
    """
    problems = []
    named = {(FLAGS[role], root) for role, roots in given_roots(datasets).items() for root in roots}
    for flag, root in sorted(named):
        try:
            parse(root or ".")  # an empty text is told apart, with a way out of its own
        except InvalidValueError as err:
            problems.append(
                InvalidValueError(f"{flag}: {err.message}", hint=err.hint, key=flag, value=err.value)
            )
    if problems:
        raise collect(problems, "the list of datasets")
    single = {
        name: absolute(value, folder)
        for name in ("eval", "inference", "calibration", "convert")
        if (value := getattr(datasets, name)) is not None
    }
    return replace(datasets, train=tuple(absolute(root, folder) for root in datasets.train), **single)


def absolute_places(flat: Mapping[str, Any], info: SkillInfo, action: str, folder: Path) -> dict[str, Any]:
    """The same values, with paths of files and folders that the action reads or writes made absolute.

    Args:
        flat: values by dotted key.
        folder: what relative paths refer to.
    """
    places = {"results_dir", f"{action}.results_dir", *info.data_sources.get(action, {})}
    places |= info.spec_params.get(action, {}).keys()
    if action in info.actions:
        places |= info.actions[action].inputs.keys() | info.actions[action].outputs.keys()
    names = {
        key
        for key, rule in info.data_sources.get(action, {}).items()
        if not rule.source and not rule.convert_job
    }
    names.add("encryption_key")
    return {
        key: _each(value, folder) if key in places - names and is_set(value) else value
        for key, value in flat.items()
    }


def _each(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        return absolute(value, folder)
    return [_each(item, folder) for item in value] if isinstance(value, list) else value
