from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from skillbank.storage.cache import Cache, Slot
from skillbank.storage.entry import Entry
from skillbank.storage.locks import Stopped, file_lock

ENTRY = Entry("s3://bucket/d/x.bin", 3, "etag")


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    return Cache(tmp_path / "cache").slot(ENTRY)


def second_claim(slot: Slot, while_it_waits: Callable[[int], None]) -> list[bytes | None]:
    """What another thread finds that asked for the claim while this one held it; None = the copy is there."""
    found: list[bytes | None] = []

    def other() -> None:
        with slot.claim("x", threading.Event()) as handle:
            found.append(None if handle is None else os.pread(handle, 10, 0))

    with slot.claim("x", threading.Event()) as handle:
        assert handle is not None
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.1)
        assert found == []
        while_it_waits(handle)
    thread.join(10)
    return found


def test_the_one_who_waited_finds_the_copy(slot: Slot) -> None:
    def finish(handle: int) -> None:
        os.pwrite(handle, b"abc", 0)
        slot.commit()

    assert second_claim(slot, finish) == [None]
    assert slot.path.read_bytes() == b"abc"
    assert not slot.part.exists()


def test_the_one_who_waited_goes_on_with_the_part(slot: Slot) -> None:
    assert second_claim(slot, lambda handle: os.pwrite(handle, b"a", 0) and None) == [b"a"]
    assert slot.part.exists()


def test_the_one_who_waited_starts_anew_after_a_discard(slot: Slot) -> None:
    def discard(handle: int) -> None:
        os.pwrite(handle, b"a", 0)
        slot.discard()

    assert second_claim(slot, discard) == [b""]


def test_waiting_can_be_stopped(slot: Slot) -> None:
    stop = threading.Event()
    stop.set()
    with slot.claim("x", threading.Event()), pytest.raises(Stopped), slot.claim("x", stop):
        pass
    with slot.claim("x", stop) as handle:
        assert handle is not None


def test_keys_tell_versions_and_places_apart(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entries = [
        ENTRY,
        Entry(ENTRY.uri, 3, "other"),
        Entry(ENTRY.uri, 4, "etag"),
        Entry("s3://bucket2/d/x.bin", 3, "etag"),
    ]
    assert len({cache.slot(entry).key for entry in entries}) == len(entries)
    assert cache.slot(ENTRY) == cache.slot(Entry(ENTRY.uri, 3, "etag"))
    assert cache.slot(ENTRY).is_trusted
    assert not cache.slot(Entry("https://h/x", 3)).is_trusted


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://bucket/d/a.tar.gz", "a.tar.gz"),
        ("https://host/", "content"),
        ("https://host/a%2F..%2Fb.pth", "a_.._b.pth"),
        ("s3://bucket/..", "content"),
        ("s3://bucket/.hidden", "hidden"),
        ("s3://bucket/" + "x" * 300 + ".pth", "x" * 146 + ".pth"),
    ],
)
def test_names_are_safe(tmp_path: Path, uri: str, name: str) -> None:
    assert Cache(tmp_path).slot(Entry(uri, 1, "e")).name == name


def test_the_copy_has_the_name_of_the_object(slot: Slot) -> None:
    with slot.claim("x", threading.Event()) as handle:
        assert handle is not None
        os.pwrite(handle, b"abc", 0)
        slot.commit()
    path = slot.named()
    assert (path.name, path.read_bytes()) == ("x.bin", b"abc")
    assert slot.named() == path
    assert [p.name for p in path.parent.iterdir()] == ["x.bin"]


def test_a_cache_without_hard_links(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with slot.claim("x", threading.Event()) as handle:
        assert handle is not None
        os.pwrite(handle, b"abc", 0)
        slot.commit()
    monkeypatch.setattr("os.link", refuse)
    assert slot.named().read_bytes() == b"abc"
    tree = Cache(slot.root).tree(ENTRY.place, ["x.bin"], [slot])
    assert (tree.build() / "x.bin").read_bytes() == b"abc"
    assert tree.is_ready()


def test_a_cache_is_for_its_owner_only(tmp_path: Path) -> None:
    Cache(tmp_path / "cache").prepare()
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_a_lock_is_free_again(tmp_path: Path) -> None:
    for _ in range(2):
        with file_lock(tmp_path / "new" / "lock", "x"):
            pass
