"""Remote inputs of a spec become local paths; remote results get a local folder that they are sent from."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, MutableMapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillbank.errors import MissingFilesError, NotFoundError, SkillBankError, collect
from skillbank.jobs.record import Job, JobFolder
from skillbank.skill_info import ActionInfo, Input
from skillbank.storage.disk import disk_error
from skillbank.storage.local import require_ordinary
from skillbank.storage.uri import is_remote, join, parse

if TYPE_CHECKING:
    from skillbank.storage import Storage
    from skillbank.storage.upload import Uploader

__all__ = ["Places", "fetch_inputs", "fetch_latest", "place_results"]

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Places:
    """Where an action writes.

    Attributes:
        folder: local folder of the action's results.
        trees: local folder -> URI that it is sent to while the job runs.
        files: local file -> URI that it is sent to at the end.
    """

    folder: Path
    trees: dict[Path, str] = field(default_factory=dict)
    files: dict[Path, str] = field(default_factory=dict)
    _uploaders: list[Uploader] = field(default_factory=list)

    def sending(self, stack: ExitStack, storage: Storage, *, excludes: list[str], interval_s: float) -> None:
        """Send results while the stack is open, and what is left when it closes, whatever ends it."""
        from skillbank.storage.upload import Uploader

        for folder, uri in self.trees.items():
            uploader = Uploader(folder, uri, excludes=excludes, interval_s=interval_s, storage=storage)
            self._uploaders.append(stack.enter_context(uploader))

    def send_rest(self) -> None:
        """Send what is left without closing anything; for a job that cannot be unwound."""
        for uploader in self._uploaders:
            try:
                uploader.sync(final=True)
            except SkillBankError as err:
                log.error("%s", err.message)

    def send_files(self, storage: Storage) -> None:
        """Send single results that were asked for at a place of their own."""
        for path, uri in self.files.items():
            if path.is_file():
                storage.put(path, uri)
                log.info("%s sent to %s", path.name, uri)


def fetch_inputs(spec: Mapping[str, Any], info: ActionInfo, storage: Storage) -> dict[str, Any]:
    """The spec with local paths at all keys that the skill declares as inputs.

    Raises:
        MissingFilesError: all inputs that are not there.
        StorageError, DataError: one that cannot be brought or unpacked.
    """
    found: dict[str, Any] = copy.deepcopy(dict(spec))
    problems: list[SkillBankError] = []
    for key, rule in info.inputs.items():
        for holder, name in _holders(found, key.split(".")):
            value = holder[name]
            if isinstance(value, list):
                holder[name] = [_local(item, key, rule, storage, problems) for item in value]
            else:
                holder[name] = _local(value, key, rule, storage, problems)
    if problems:
        raise collect(problems, "the input data")
    return found


def place_results(spec: dict[str, Any], job: Job, info: ActionInfo) -> Places:
    """Give every result a local place, in the spec too: that of the action's folder and of declared outputs.

    The action's folder is ``<action>.results_dir``, else ``<results_dir>/<action>``.
    """
    root = JobFolder(job.folder).results
    trees: dict[Path, str] = {}
    given = str(spec.get("results_dir") or root)
    if is_remote(given) or is_remote(job.results_dir):
        trees[root] = given if is_remote(given) else job.results_dir
        given = given if not is_remote(given) else str(root)
    spec["results_dir"] = given
    block = spec.get(job.action)
    own = str(block.get("results_dir") or "") if isinstance(block, Mapping) else ""
    folder = Path(given) / job.action
    if own and is_remote(own):
        trees[folder] = own
    elif own:
        folder = parse(own).local
    if isinstance(block, MutableMapping) and "results_dir" in block:
        block["results_dir"] = str(folder)
    places = Places(folder=folder, trees=trees)
    _make(folder)
    for key, output in info.outputs.items():
        for holder, name in _holders(spec, key.split(".")):
            value = holder[name]
            if not isinstance(value, str) or not value or key.endswith("results_dir"):
                continue
            if is_remote(value):
                path = folder / parse(value).name
                places.files[path] = value
                holder[name] = str(path)
            path = Path(holder[name])
            _make(path.parent if output.type == "file" else path)
    return places


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise disk_error(err, folder) from err


def fetch_latest(uri: str, link_name: str, folder: Path, storage: Storage) -> Path | None:
    """The newest checkpoint that an earlier run sent to a remote folder; None when there is none.

    Args:
        uri: remote folder of the action's results.
        link_name: name of the link to the newest checkpoint.
        folder: local folder of the action, which gets the status lines of the earlier run to go on from.
        storage: reaches the remote folder.
    """
    place, status = join(uri, link_name), join(uri, "status.json")
    if not storage.exists(place):
        return None
    log.info("fetching the newest checkpoint of an earlier run: %s", place)
    if storage.exists(status):
        said = (folder / "status.json").read_bytes() if (folder / "status.json").exists() else b""
        (folder / "status.json").write_bytes(storage.fetch(status).read_bytes() + said)
    return storage.fetch(place)


def _local(value: Any, key: str, rule: Input, storage: Storage, problems: list[SkillBankError]) -> Any:
    if not isinstance(value, str) or not value or value in rule.words:
        return value
    is_plain = not is_remote(value) and rule.archive == "keep"
    try:
        if is_plain:
            path = parse(value).local
            if path.exists():
                require_ordinary(path)
            if path.exists() or rule.optional:
                return str(path)
        elif rule.optional and not storage.exists(value):
            return value
        else:
            if is_remote(value):
                log.info("%s: fetching %s", key, value)
            return str(storage.fetch_any(value, archive=rule.archive))
    except SkillBankError as err:
        problems.append(_named(err, key))
        return value
    problems.append(
        MissingFilesError(
            f"{key}: there is no {rule.type.replace('_', ' ')} {value}",
            hint=f"ls {path.parent}",
            key=key,
            value=value,
        )
    )
    return value


def _named(error: SkillBankError, key: str) -> SkillBankError:
    """The error with the spec key in front; a file that is not there is a matter of the data."""
    kind = MissingFilesError if isinstance(error, NotFoundError) else type(error)
    named = kind(f"{key}: {error.message}", hint=error.hint, key=key)
    named.problems = error.problems
    return named


def _holders(values: Any, parts: list[str]) -> list[tuple[MutableMapping[str, Any], str]]:
    """The maps that hold the last part of a dotted key, behind every entry of lists on the way."""
    if isinstance(values, list):
        return [found for item in values for found in _holders(item, parts)]
    if not isinstance(values, MutableMapping) or parts[0] not in values:
        return []
    if len(parts) == 1:
        return [(values, parts[0])]
    return _holders(values[parts[0]], parts[1:])
