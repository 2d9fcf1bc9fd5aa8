"""Relative paths of a request, made absolute: a job runs in a folder of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from skillbank.errors import InvalidValueError, collect
from skillbank.jobs.record import Datasets
from skillbank.resolve.sources import FLAGS, given_roots
from skillbank.resolve.values import is_set
from skillbank.skill_info import SkillInfo
from skillbank.storage.uri import is_remote, parse, show

__all__ = ["absolute", "absolute_datasets", "absolute_places"]

_LOGIN = re.compile(r"https?://[^/?#]*@", re.IGNORECASE)


def absolute(place: str, folder: Path) -> str:
    """A path as seen from `folder`; URIs, references and absolute paths stay as they are.

    So does what is no place, such as ``s3:/bucket``, for the check that tells the way out.
    """
    if not place.strip() or "://" in place or "${" in place or place == "???":
        return place
    try:
        parse(place)
    except InvalidValueError:
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
        problems += _logins(flag, root)
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
        flat: values by dotted key; paths beside a `root_dir` are relative to it.
        folder: what relative paths refer to.

    Raises:
        InvalidValueError: addresses that hold a login or a signature; all are named.
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
    inputs = info.actions[action].inputs if action in info.actions else {}
    named = {
        key: value
        for key, value in flat.items()
        if key in places - names and is_set(value) and not (key in inputs and value in inputs[key].words)
    }
    problems = [problem for key, value in named.items() for problem in _logins(key, value)]
    if problems:
        raise collect(problems, "the list of places")
    return {
        key: _each(_under_root(key, value, flat), folder) if key in named else value
        for key, value in flat.items()
    }


def _under_root(key: str, value: Any, flat: Mapping[str, Any]) -> Any:
    """A relative path with the `root_dir` of its section before it, where that is set."""
    section, _, name = key.rpartition(".")
    root = flat.get(f"{section}.root_dir")
    if name == "root_dir" or not isinstance(value, str) or not isinstance(root, str) or not is_set(root):
        return value
    is_relative = absolute(value, Path("/")) != value
    return f"{root.rstrip('/')}/{value}" if is_relative else value


def _logins(key: str, value: Any) -> list[InvalidValueError]:
    """An error for every address that holds a login or a signature, which would be stored with the job."""
    if isinstance(value, list):
        return [problem for item in value for problem in _logins(key, item)]
    if not isinstance(value, str):
        return []
    if _LOGIN.match(value):
        what, hint = "a login", "put the login into ~/.netrc, where web addresses look for it"
    elif is_remote(value) and _is_signed(value):
        what, hint = (
            "a signature",
            "skillbank data fetch LINK, then name the local path it prints",
        )
    else:
        return []
    return [InvalidValueError(f"{key}: {show(value)} holds {what}, which no record may", hint=hint, key=key)]


def _is_signed(place: str) -> bool:
    try:
        return parse(place).is_signed
    except InvalidValueError:
        return False


def _each(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        return absolute(value, folder)
    return [_each(item, folder) for item in value] if isinstance(value, list) else value
