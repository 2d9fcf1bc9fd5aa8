import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from skillbank.errors import StorageError
from skillbank.jobs.database import SCHEMA_VERSION, Database
from skillbank.jobs.record import Request
from skillbank.jobs.store import JobStore

NOBODY = 65534
INSERT = "INSERT INTO transitions (job_id, ts, state, message, source)"


def raw(store: JobStore) -> sqlite3.Connection:
    connection = sqlite3.connect(store.home / "store.db", isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def test_the_file_is_in_wal_mode_and_says_its_version(store: JobStore) -> None:
    store.list()
    connection = raw(store)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE transitions SET message = 'x'", "append-only"),
        ("DELETE FROM transitions", "append-only"),
        ("UPDATE jobs SET state = 'running'", "changes by a transition only"),
        (f"{INSERT} SELECT id, '', 'running', '', 'sdk' FROM jobs", "a final state is immutable"),
        (f"{INSERT} VALUES ('x', '', 'pending', '', 'sdk')", "FOREIGN KEY"),
    ],
)
def test_sql_itself_guards_the_history(store: JobStore, train: Request, statement: str, message: str) -> None:
    job = store.create(train)
    store.transition(job.id, "canceled")
    connection = raw(store)
    with pytest.raises(sqlite3.IntegrityError, match=message):
        connection.execute(statement)
    connection.close()
    assert [entry.state for entry in store.history(job.id)] == ["pending", "canceled"]


def test_sql_itself_keeps_jobs_that_are_not_final(store: JobStore, train: Request) -> None:
    job = store.create(train)
    connection = raw(store)
    with pytest.raises(sqlite3.IntegrityError, match="only a job in a final state"):
        connection.execute("DELETE FROM jobs")
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        connection.execute(f"{INSERT} VALUES (?, '', 'odd', '', 'sdk')", (job.id,))
    connection.close()


def test_filters_use_an_index(store: JobStore) -> None:
    store.list()
    connection = raw(store)
    for where in ("state IN ('pending', 'running')", "network = 'x'", "parent_id = 'x'", "id = 'x'"):
        plan = str(connection.execute(f"EXPLAIN QUERY PLAN SELECT * FROM jobs WHERE {where}").fetchall())
        assert "USING INDEX" in plan, where
    connection.close()


def test_a_newer_store_is_left_alone(store: JobStore) -> None:
    store.list()
    store.close()
    connection = raw(store)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StorageError, match=r"newer version \(schema 99") as caught:
        store.list()
    assert "pip install --upgrade skillbank" in caught.value.hint


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "store.db")
    connection.execute("CREATE TABLE jobs (x)")
    connection.close()
    with JobStore(tmp_path) as store, pytest.raises(StorageError, match="database of another program"):
        store.list()


def test_a_damaged_file_is_one_clear_error(store: JobStore, train: Request) -> None:
    for _ in range(20):
        store.create(train)
    store.close()
    file = store.home / "store.db"
    whole = file.read_bytes()
    for damaged in (b"not a database at all" * 100, whole[:4096] + b"\xff" * (len(whole) - 4096)):
        file.write_bytes(damaged)
        for left_over in store.home.glob("store.db-*"):
            left_over.unlink()
        with pytest.raises(StorageError, match="it is damaged") as caught:
            store.list()
        assert f"mv {file} {file}.damaged" in caught.value.hint
        store.close()


def test_a_lock_that_is_never_released_is_one_clear_error(tmp_path: Path, train: Request) -> None:
    with JobStore(tmp_path) as other, JobStore(tmp_path, busy_timeout_s=0.05) as store:
        other.list()
        connection = raw(other)
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="another process keeps it locked") as caught:
            store.create(train)
        assert "try again" in caught.value.hint
        connection.execute("ROLLBACK")
        connection.close()
        assert store.create(train).state == "pending"


def test_a_full_disk_in_the_database_is_one_clear_error_and_leaves_nothing(
    tmp_path: Path, train: Request
) -> None:
    with JobStore(tmp_path) as store:
        store.create(train)
        with store._database.read() as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")
        big = Request(network="mask2former", action="train", specs={"a": "x" * 100_000})
        with pytest.raises(StorageError, match="the disk is full") as caught:
            store.create(big)
        assert "df -h" in caught.value.hint
        assert len(store.list()) == 1
        assert len(list(store.folders.iterdir())) == 1


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (sqlite3.SQLITE_PROTOCOL, "does not lock files properly"),
        (sqlite3.SQLITE_IOERR_LOCK, "failed to read, write or lock it"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, "it cannot be written"),
        (sqlite3.SQLITE_CANTOPEN, "it cannot be opened"),
    ],
)
def test_every_refusal_of_sqlite_is_explained(tmp_path: Path, code: int, text: str) -> None:
    database = Database(tmp_path / "store.db")
    error = sqlite3.OperationalError("as sqlite words it")
    error.sqlite_errorcode = code
    with pytest.raises(StorageError, match=text) as caught, database.read():
        raise error
    assert "as sqlite words it" in caught.value.message
    assert caught.value.hint
    database.close()


def test_a_home_that_was_removed_is_noticed(store: JobStore, train: Request) -> None:
    store.create(train)
    for path in sorted(store.home.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    store.home.rmdir()
    assert store.list() == []
    assert store.create(train).folder.is_dir()


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root may write everywhere, so what is refused to others is tried as somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_home_is_one_clear_error(train: Request) -> None:
    # Not below tmp_path: its parents are closed to others.
    with tempfile.TemporaryDirectory() as folder, JobStore(Path(folder) / "home") as store:
        store.create(train)
        store.close()
        if os.geteuid() == 0:
            for path in (Path(folder), store.home, *store.home.rglob("*")):
                os.chown(path, NOBODY, -1)
        store.home.chmod(0o500)
        with as_nobody():
            with pytest.raises(StorageError, match="it cannot be written") as caught:
                store.create(train)
            assert f"chmod -R u+rwX {store.home}" in caught.value.hint
            store.close()
        store.home.chmod(0o700)
        assert len(list(store.folders.iterdir())) == 1


def test_threads_get_connections_of_their_own(store: JobStore, train: Request) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                job = store.create(train)
                store.transition(job.id, "running")
                store.transition(job.id, "done")
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [job.state for job in store.list()] == ["done"] * 20


CREATE = """
import sys
from pathlib import Path
from skillbank.jobs.record import Request
from skillbank.jobs.store import JobStore
store = JobStore(Path(sys.argv[1]))
sys.stdin.readline()
request = Request(network="mask2former", action="train")
for index in range(10):
    store.create(request)
    print(store.create(request, idempotency_key=f"key-{index}").is_duplicate)
"""


def test_processes_share_one_new_store(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, str(tmp_path / "home")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    answers = [worker.communicate()[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    with JobStore(tmp_path / "home") as store:
        assert len(store.list()) == 3 * 10 + 10
    duplicates = [answer for found in answers for answer in found]
    assert (duplicates.count("True"), duplicates.count("False")) == (20, 10)


RACE = """
import sys
from pathlib import Path
from skillbank.errors import InvalidTransitionError
from skillbank.jobs.store import JobStore
store = JobStore(Path(sys.argv[1]))
sys.stdin.readline()
won = 0
for job_id in sys.argv[3:]:
    try:
        won += store.transition(job_id, sys.argv[2])
    except InvalidTransitionError:
        pass
print(won)
"""


def test_of_two_racing_ends_one_wins_each_job(store: JobStore, train: Request) -> None:
    ids = [store.create(train).id for _ in range(20)]
    for job_id in ids:
        store.transition(job_id, "running")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(store.home), end, *ids],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for end in ("done", "error")
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    wins = [int(worker.communicate()[0]) for worker in workers]
    assert sum(wins) == len(ids)
    for job_id in ids:
        history = store.history(job_id)
        assert [entry.state for entry in history][:2] == ["pending", "running"]
        assert len(history) == 3


FORK = """
import os, sys
from pathlib import Path
from skillbank.jobs.record import Request
from skillbank.jobs.store import JobStore
store = JobStore(Path(sys.argv[1]))
request = Request(network="mask2former", action="train")
store.create(request)
of_parent = store._database._connection()
child = os.fork()
store.create(request)
if child == 0:
    assert store._database._connection() is not of_parent
    of_parent.execute("SELECT 1")
    store.close()
    os._exit(len(store.list()) < 2)
assert os.waitpid(child, 0)[1] == 0
store.create(request)
assert len(store.list()) == 4, len(store.list())
"""


def test_a_forked_process_does_not_use_the_connection_of_its_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", FORK, str(tmp_path / "home")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
