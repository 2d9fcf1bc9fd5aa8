"""The SQLite file behind the store: connections, schema version, and what its errors mean to a user."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skillbank.errors import InvalidValueError, StorageError

__all__ = ["SCHEMA_VERSION", "Database"]

SCHEMA_VERSION = 1

# "skbk": tells our file from any other SQLite database
_APPLICATION_ID = 0x736B626B

_MOVE = "point SKILLBANK_HOME to a folder on a local disk: export SKILLBANK_HOME=/path/to/folder"

# Primary SQLite result codes -> what happened, and the way out. `{path}` and `{home}` are filled in.
_EXPLAINED: dict[int, tuple[str, str]] = {
    sqlite3.SQLITE_PERM: ("access is refused", "chmod u+rwx {home}"),
    sqlite3.SQLITE_BUSY: (
        "another process keeps it locked",
        "try again; fuser {path} shows who holds it",
    ),
    sqlite3.SQLITE_LOCKED: ("another process keeps it locked", "try again; fuser {path} shows who holds it"),
    sqlite3.SQLITE_READONLY: (
        "it cannot be written",
        "chmod -R u+rwX {home}, or set SKILLBANK_HOME elsewhere",
    ),
    sqlite3.SQLITE_IOERR: (
        "the disk or network file system failed to read, write or lock it",
        _MOVE,
    ),
    sqlite3.SQLITE_CORRUPT: (
        "it is damaged",
        "mv {path} {path}.damaged; job folders in {home}/jobs are kept",
    ),
    sqlite3.SQLITE_FULL: ("the disk is full", "free some space: df -h {home}"),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "ls -ld {home}; or set SKILLBANK_HOME elsewhere"),
    sqlite3.SQLITE_PROTOCOL: ("its file system does not lock files properly", _MOVE),
    sqlite3.SQLITE_NOLFS: ("its file system has no large files", _MOVE),
    sqlite3.SQLITE_NOTADB: (
        "it is damaged or no store of jobs",
        "mv {path} {path}.damaged; job folders in {home}/jobs are kept",
    ),
}


class _Handle:
    """One connection, good for one thread of one process and for one file."""

    def __init__(self, connection: sqlite3.Connection, file: tuple[int, int]) -> None:
        self.connection = connection
        self.file = file
        self.pid = os.getpid()

    def __del__(self) -> None:
        self.connection.close()


# Connections that a fork copied. Closing a copy would meddle with the files of the parent's connection.
_INHERITED: list[_Handle] = []


class Database:
    """Connections to one SQLite file in WAL mode, one per thread and process, opened when first needed.

    Args:
        path: the file; its folder is created with mode 0700, the file with 0600.
        busy_timeout_s: how long to wait for a lock of another process.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float = 15.0) -> None:
        self.path = path
        self.busy_timeout_s = busy_timeout_s
        self._local = threading.local()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection for queries.

        Raises:
            StorageError: the file cannot be read; says why and what to do.
        """
        with self._explained():
            yield self._connection()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A connection that holds the write lock; committed at the end, rolled back on any exception.

        Raises:
            StorageError: the file cannot be written; says why and what to do.
        """
        with self._explained():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the connection of the calling thread; the next use opens a new one."""
        handle: _Handle | None = self._local.__dict__.pop("handle", None)
        if handle is not None and handle.pid != os.getpid():
            _INHERITED.append(handle)

    def _connection(self) -> sqlite3.Connection:
        handle: _Handle | None = self._local.__dict__.get("handle")
        if handle is not None and handle.pid == os.getpid() and handle.file == self._file():
            return handle.connection
        self.close()
        connection = self._open()
        file = self._file()
        assert file is not None
        self._local.handle = _Handle(connection, file)
        return connection

    def _file(self) -> tuple[int, int] | None:
        """Identity of the file, so that a removed or replaced one is noticed."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StorageError(
                f"store of jobs {self.path}: it cannot be written ({error.strerror})",
                hint=f"ls -ld {self.path.parent}; or set SKILLBANK_HOME to a folder that you may write",
                key="SKILLBANK_HOME",
            ) from error
        connection = sqlite3.connect(
            self.path, timeout=self.busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        version = self._version(connection)
        if version == SCHEMA_VERSION:
            return
        self._switch_to_wal(connection)
        script = Path(__file__).with_name("schema.sql").read_text(encoding="utf-8")
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{script}\n"
            f"PRAGMA application_id = {_APPLICATION_ID};\nPRAGMA user_version = {SCHEMA_VERSION};\nCOMMIT;"
        )

    def _version(self, connection: sqlite3.Connection) -> int:
        """Schema version of the file, 0 for a new one.

        Raises:
            StorageError: a newer store, or a database of something else.
        """
        application, version = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("application_id", "user_version")
        )
        if application not in (0, _APPLICATION_ID) or (
            application == 0 and connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        ):
            # A second look: another process may just be setting up the same new file.
            if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
                raise StorageError(
                    f"store of jobs {self.path}: the file is a database of another program",
                    hint="set SKILLBANK_HOME to another folder: export SKILLBANK_HOME=/path/to/folder",
                )
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise StorageError(
                f"store of jobs {self.path}: it was written by a newer version (schema {version}; "
                f"this one reads up to {SCHEMA_VERSION})",
                hint="pip install --upgrade skillbank, or set SKILLBANK_HOME to another folder",
            )
        return version

    def _switch_to_wal(self, connection: sqlite3.Connection) -> None:
        """Switching needs the file for itself, and SQLite does not wait for that by its own timeout."""
        deadline = time.monotonic() + self.busy_timeout_s
        while True:
            try:
                mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as error:
                if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        if mode != "wal":
            raise StorageError(
                f"store of jobs {self.path}: its file system does not allow shared access", hint=_MOVE
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except (UnicodeEncodeError, OverflowError) as error:
            raise InvalidValueError(
                f"a value cannot be stored ({error}); allowed are Unicode texts and 64-bit integers",
                hint="write the name, id or number anew",
            ) from error
        except sqlite3.DatabaseError as error:
            found, hint = _EXPLAINED.get(
                _primary_code(error), ("SQLite refuses", "try again with another folder in SKILLBANK_HOME")
            )
            raise StorageError(
                f"store of jobs {self.path}: {found} ({error})",
                hint=hint.format(path=self.path, home=self.path.parent),
                key="SKILLBANK_HOME",
            ) from error


def _primary_code(error: sqlite3.Error) -> int:
    # The low byte is the primary code, the rest tells variants apart.
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
