"""Unpacks archives into a folder named after their content: whole or not at all, once for all processes.

What is refused: names that are absolute or leave the folder, links that leave it, devices and pipes, a name
given twice, encrypted members, and archives that unpack to far more than they are. Links that stay inside are
kept; they are made after all files, so that nothing is ever written through one. An archive inside the
archive stays a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath

from skillbank.errors import DataError, StorageError
from skillbank.storage.disk import disk_error, human, replacing, require_room
from skillbank.storage.local import missing_local
from skillbank.storage.locks import file_lock
from skillbank.storage.members import ENDINGS, Member, is_archive, open_members

__all__ = ["ENDINGS", "Limits", "content_folder", "is_archive", "parent_folder", "unpack"]

_DRIVE = re.compile(r"[A-Za-z]:[/\\]")
_DESKTOP = re.compile(r"(.*/)?(__MACOSX(/.*)?|\.DS_Store|\._[^/]*|Thumbs\.db)")
_DEEPEST = 64
_LONGEST = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an archive may unpack to.

    Attributes:
        max_bytes: of all files together.
        max_ratio: unpacked bytes for each byte of the archive; counts from `ratio_from_bytes` on.
        max_files: files and links.
    """

    max_bytes: int = 4 << 40
    max_ratio: int = 250
    max_files: int = 5_000_000
    ratio_from_bytes: int = 256 << 20

    @classmethod
    def from_env(cls) -> Limits:
        """The limits, each replaced by ``SKILLBANK_ARCHIVE_<NAME>`` where that is set.

        Raises:
            StorageError: a variable is not a whole number.
        """
        given: dict[str, int] = {}
        for each in fields(cls):
            name = f"SKILLBANK_ARCHIVE_{each.name.upper()}"
            text = os.environ.get(name, "").strip()
            if text and not text.isdigit():
                raise StorageError(
                    f"{name}: '{text}' is not allowed; use a whole number",
                    hint=f"unset {name}",
                    key=name,
                    value=text,
                )
            if text:
                given[each.name] = int(text)
        return cls(**given)


def unpack(archive: Path, into: Path, *, limits: Limits | None = None) -> Path:
    """The folder with the content of an archive, below `into`; it is unpacked when it is not there yet.

    The folder is named after the SHA-256 of the archive; ``<folder>.json`` beside it lists what it holds.

    Raises:
        NotFoundError: there is no such file.
        DataError: not an archive, damaged, encrypted, or hostile.
        StorageError: the disk is full or refuses. In every case nothing is left behind.
    """
    if not archive.is_file():
        raise missing_local(archive)
    digest = _digest(archive, into)
    folder = into / digest[:32]
    manifest = into / f"{digest[:32]}.json"
    if folder.is_dir() and manifest.is_file():
        return folder
    with file_lock(into / f".{digest[:32]}.lock", str(archive)):
        if folder.is_dir() and manifest.is_file():
            return folder
        # We hold the lock, so what is left under these names is from a killed process.
        temporary = into / f".{digest[:32]}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        task = _Unpacking(archive, temporary, limits or Limits.from_env())
        try:
            task.run()
            _write_manifest(manifest, task, digest)
            temporary.rename(folder)
        except OSError as err:
            shutil.rmtree(temporary, ignore_errors=True)
            raise disk_error(err, folder, task.needed) from err
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return folder


def content_folder(folder: Path) -> Path:
    """The folder that holds the files: the only folder at the top when there is nothing beside it."""
    found = sorted(folder.iterdir())
    return found[0] if len(found) == 1 and found[0].is_dir() and not found[0].is_symlink() else folder


def parent_folder(folder: Path, archive_name: str) -> Path:
    """The folder that stands for the one the archive lies in, which is the dataset root.

    That is the top of the archive; where all is in one folder at the top, that folder counts when it is named
    like the archive or has the ``data`` folder of a dataset in it. A lone ``data`` or scene folder stays what
    it is.
    """
    only = content_folder(folder)
    if only == folder:
        return folder
    stem = next(
        (archive_name[: -len(end)] for end in ENDINGS if archive_name.lower().endswith(end)), archive_name
    )
    is_wrapping = only.name == stem or (only / "data").is_dir()
    return only if is_wrapping and only.name != "data" else folder


def _digest(archive: Path, into: Path) -> str:
    """SHA-256 of the archive, remembered for as long as the file does not change."""
    state = archive.stat()
    stamp = [state.st_size, state.st_mtime_ns, state.st_ino, state.st_dev]
    key = hashlib.sha256(os.fsencode(archive.resolve())).hexdigest()[:32]
    memory = into / ".digests" / f"{key}.json"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["stamp"] == stamp:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise disk_error(err, archive) from err
    with replacing(memory) as file:
        file.write(json.dumps({"stamp": stamp, "sha256": digest}).encode())
    return digest


def _write_manifest(path: Path, task: _Unpacking, digest: str) -> None:
    content = {
        "archive": task.archive.name,
        "sha256": digest,
        "bytes": task.archive_bytes,
        "unpacked_bytes": task.written,
        "files": task.files,
        "links": task.links,
        "skipped": task.skipped,
    }
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1, sort_keys=True).encode())


@dataclass(slots=True)
class _Unpacking:
    """One run over the members, with what it has seen so far."""

    archive: Path
    root: Path
    limits: Limits
    archive_bytes: int = 0
    written: int = 0
    needed: int = 0
    files: dict[str, int] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)
    hardlinks: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Write everything below the root, which must not exist yet."""
        self.archive_bytes = self.archive.stat().st_size
        self.root.mkdir(parents=True)
        with open_members(self.archive) as members:
            for member in members:
                self._take(member)
        if not self.files:
            raise DataError(
                f"{self.archive}: the archive holds no file", hint="pack it again", key=str(self.archive)
            )
        self._make_links()

    def _refuse(self, what: str, hint: str = "do not use this archive, or pack it again") -> DataError:
        return DataError(f"{self.archive}: refused: {what}", hint=hint, key=str(self.archive))

    def _take(self, member: Member) -> None:
        name = self._safe(member.name, "the name")
        if name is None or _DESKTOP.fullmatch(name):
            self.skipped += [name] if name else []
            return
        if member.kind == "other":
            raise self._refuse(
                f"'{member.name}' is a device, a pipe or of an unknown kind; allowed: files and folders"
            )
        if member.kind == "folder":
            self._folder(name)
            return
        self._claim(name, member)
        if member.kind == "file":
            self._write(name, member)
        elif member.kind == "symlink":
            self.links[name] = member.target
        else:
            target = self._safe(member.target, f"the target of link '{name}'")
            if target is None or target not in self.files:
                raise self._refuse(
                    f"link '{name}' leads to '{member.target}', which is no earlier file of the archive"
                )
            self.hardlinks[name] = target

    def _safe(self, raw: str, what: str) -> str | None:
        """The name without ``.`` parts; None for the top itself."""
        parts = [part for part in raw.split("/") if part not in ("", ".")]
        if raw.startswith(("/", "\\")) or _DRIVE.match(raw):
            raise self._refuse(f"{what} '{raw}' is absolute; allowed: names inside the archive")
        if ".." in parts:
            raise self._refuse(f"{what} '{raw}' leads out of the folder; allowed: names without '..'")
        if len(parts) > _DEEPEST or len(raw) > _LONGEST or "\0" in raw:
            raise self._refuse(f"{what} '{raw[:80]}...' is too long or too deep")
        return "/".join(parts) or None

    def _claim(self, name: str, member: Member) -> None:
        if name in self.files or name in self.folders or name in self.links or name in self.hardlinks:
            raise self._refuse(f"'{member.name}' is there twice")
        count = len(self.files) + len(self.links) + len(self.hardlinks) + 1
        if count > self.limits.max_files:
            raise self._refuse(
                f"it holds more than {self.limits.max_files} files",
                "if it is meant so: export SKILLBANK_ARCHIVE_MAX_FILES=...",
            )
        self._folder(str(PurePosixPath(name).parent))

    def _folder(self, name: str) -> None:
        if name == "." or name in self.folders:
            return
        for part in (name, *(str(parent) for parent in PurePosixPath(name).parents)):
            if part in self.files or part in self.links or part in self.hardlinks:
                raise self._refuse(f"'{part}' is a folder and a file or link at once")
            if part != ".":
                self.folders.add(part)
        (self.root / name).mkdir(parents=True, exist_ok=True)

    def _write(self, name: str, member: Member) -> None:
        self.files[name] = 0
        self.needed = self.written + member.size
        if member.size > 1 << 30:
            require_room(self.root, min(member.size, self.limits.max_bytes))
        with closing(member.chunks()) as chunks, (self.root / name).open("xb") as file:
            for chunk in self._within_limits(chunks):
                file.write(chunk)
                self.files[name] += len(chunk)

    def _within_limits(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        limits = self.limits
        for chunk in chunks:
            self.written += len(chunk)
            if self.written > limits.max_bytes:
                raise self._refuse(
                    f"it unpacks to more than {limits.max_bytes} bytes ({human(limits.max_bytes)})",
                    "if it is meant so: export SKILLBANK_ARCHIVE_MAX_BYTES=...",
                )
            if (
                self.written > limits.ratio_from_bytes
                and self.written > limits.max_ratio * self.archive_bytes
            ):
                raise self._refuse(
                    f"it unpacks to more than {limits.max_ratio} times its {self.archive_bytes} bytes",
                    "if it is meant so: export SKILLBANK_ARCHIVE_MAX_RATIO=...",
                )
            yield chunk

    def _make_links(self) -> None:
        for name, target in self.hardlinks.items():
            os.link(self.root / target, self.root / name)
        for name, target in self.links.items():
            if not target or PurePosixPath(target).is_absolute() or "\0" in target:
                raise self._refuse(
                    f"link '{name}' leads to '{target}'; allowed: relative links inside the archive"
                )
            (self.root / name).symlink_to(target)
        # Links can lead through other links, so the question where one ends is put to the file system.
        inside = self.root.resolve()
        for name, target in self.links.items():
            if not (self.root / name).resolve().is_relative_to(inside):
                raise self._refuse(f"link '{name}' leads to '{target}', out of the folder")
