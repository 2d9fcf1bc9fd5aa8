"""Reads zip and tar archives member by member; says what a member is and trusts nothing it says of itself."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from skillbank.errors import DataError

__all__ = ["ENDINGS", "Member", "damaged", "is_archive", "open_members", "unreadable"]

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

_CHUNK = 1 << 20
_BLOCK = 512
# A header of a tar file is read in one go; no real one comes near this.
_LONGEST_READ = 16 << 20
_LONGEST_TAIL = 64 << 20
_DAMAGE = (
    EOFError,
    NotImplementedError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive.

    Attributes:
        name: as written in the archive, with `/` between folders.
        kind: ``other`` stands for devices, pipes and what is not known.
        target: of a symlink, relative to its folder; of a hardlink, a name in the archive.
        chunks: the content of a file; to be read before the next member is asked for.
    """

    name: str
    kind: Literal["file", "folder", "symlink", "hardlink", "other"]
    size: int = 0
    target: str = ""
    chunks: Callable[[], Generator[bytes]] = lambda: _nothing()


def _nothing() -> Generator[bytes]:
    yield from ()


def is_archive(name: str) -> bool:
    """Whether a file of this name is taken for an archive."""
    return name.lower().endswith(ENDINGS)


def damaged(path: Path, reason: str) -> DataError:
    """The error for an archive that cannot be read to its end."""
    return DataError(
        f"{path}: the archive is damaged or cut off ({reason})",
        hint="make or download it again",
        key=str(path),
    )


def unreadable(path: Path) -> DataError:
    """The error for a file that no format of archives fits."""
    if path.stat().st_size == 0:
        return DataError(f"{path}: the file is empty", hint="make or download it again", key=str(path))
    return DataError(
        f"{path}: is no readable archive: truncated or another format; allowed: {', '.join(ENDINGS)}",
        hint=f"see what it is: file {path}; make or download it again",
        key=str(path),
    )


@contextmanager
def open_members(path: Path) -> Iterator[Iterator[Member]]:
    """The members of an archive, whose format is told by its content.

    Raises:
        DataError: not an archive, encrypted, damaged, or cut off; also while members are read.
    """
    with ExitStack() as stack:
        try:
            if zipfile.is_zipfile(path) and not path.name.lower().endswith((".tar", ".tar.gz", ".tgz")):
                yield _zip_members(stack.enter_context(zipfile.ZipFile(path)), path)
            else:
                stream = stack.enter_context(_decompressed(path))
                yield _tar_members(
                    stack.enter_context(tarfile.open(fileobj=cast("Any", _Bounded(stream, path)))), path
                )
        except _DAMAGE as err:
            text = str(err) or type(err).__name__
            # The library answers what it cannot open with one line for each of its formats.
            raise (unreadable(path) if "\n" in text else damaged(path, text)) from err
        except OSError as err:
            if err.errno is not None:
                raise
            raise damaged(path, str(err)) from err


def _decompressed(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.open(path))
    if start.startswith(b"BZh"):
        return bz2.open(path)
    if start.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(path)
    return path.open("rb")


class _Bounded:
    """A stream that refuses to read enormous headers into memory."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream = stream
        self._path = path
        self.seek = stream.seek
        self.tell = stream.tell
        self.close = stream.close

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _LONGEST_READ:
            raise DataError(
                f"{self._path}: a header claims {size} bytes; up to {_LONGEST_READ} are allowed",
                hint="do not use this archive: it was made to harm",
                key=str(self._path),
            )
        return self._stream.read(size)


def _tar_members(tar: tarfile.TarFile, path: Path) -> Iterator[Member]:
    while (info := tar.next()) is not None:
        # The library remembers every member it has seen; a million of them fill the memory.
        tar.members = []  # type: ignore[attr-defined]
        if info.isreg():
            yield Member(info.name, "file", info.size, chunks=lambda info=info: _tar_chunks(tar, info, path))  # type: ignore[misc]
        elif info.isdir():
            yield Member(info.name, "folder")
        elif info.issym():
            yield Member(info.name, "symlink", target=info.linkname)
        elif info.islnk():
            yield Member(info.name, "hardlink", target=info.linkname)
        else:
            yield Member(info.name, "other")
    # A broken header inside looks like the end to the library; the real end is a block of zeros.
    stream = cast("IO[bytes]", tar.fileobj)
    stream.seek(tar.offset)
    if stream.read(_BLOCK) != bytes(_BLOCK):
        raise damaged(path, "it has no end mark")
    # The check sum of a compressed stream comes last.
    for _ in range(_LONGEST_TAIL // _CHUNK):
        if not stream.read(_CHUNK):
            return
    raise damaged(path, f"more than {_LONGEST_TAIL} bytes follow its end mark")


def _tar_chunks(tar: tarfile.TarFile, info: tarfile.TarInfo, path: Path) -> Generator[bytes]:
    file = tar.extractfile(info)
    seen = 0
    while file is not None and (chunk := file.read(_CHUNK)):
        seen += len(chunk)
        yield chunk
    if seen != info.size:
        raise damaged(path, f"{info.name} has {seen} of {info.size} bytes")


def _zip_members(archive: zipfile.ZipFile, path: Path) -> Iterator[Member]:
    encrypted = [info.filename for info in archive.infolist() if info.flag_bits & 0x1]
    if encrypted:
        raise DataError(
            f"{path}: {len(encrypted)} files in it are encrypted, '{encrypted[0]}' first; allowed: none",
            hint=f"unpack it yourself and give the folder: unzip {path.name}",
            key=str(path),
        )
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir() or name.endswith("/"):
            yield Member(name, "folder")
        elif kind == stat.S_IFLNK:
            target = (
                b"".join(_zip_chunks(archive, info))[:4096].decode("utf-8", "replace")
                if info.file_size < 4096
                else ""
            )
            yield Member(name, "symlink", target=target)
        elif kind in (0, stat.S_IFREG):
            yield Member(name, "file", info.file_size, chunks=lambda info=info: _zip_chunks(archive, info))  # type: ignore[misc]
        else:
            yield Member(name, "other")


def _zip_chunks(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Generator[bytes]:
    with archive.open(info) as file:
        while chunk := file.read(_CHUNK):
            yield chunk
