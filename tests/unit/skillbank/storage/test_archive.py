from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from skillbank.errors import DataError, NotFoundError, SkillBankError, StorageError
from skillbank.storage import Storage
from skillbank.storage.archive import Limits, content_folder, is_archive, parent_folder, unpack

FILES = {"images/a.png": b"aa", "images/sub/b.png": b"b" * 5000, "notes.txt": b""}
MODES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


def make_tar(path: Path, *members: tarfile.TarInfo, body: bytes = b"") -> Path:
    end = next(end for end in sorted(MODES, key=len, reverse=True) if path.name.endswith(end))
    with tarfile.open(path, MODES[end]) as archive:  # type: ignore[call-overload]
        for info in members:
            info.size = len(body) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(body) if info.isreg() else None)
    return path


def make(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, body in files.items():
                archive.writestr(name, body)
        return path
    end = next(end for end in sorted(MODES, key=len, reverse=True) if path.name.endswith(end))
    with tarfile.open(path, MODES[end]) as archive:  # type: ignore[call-overload]
        for name, body in files.items():
            archive.addfile(member(name, size=len(body)), io.BytesIO(body))
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(path: Path, into: Path, says: str, **limits: int) -> SkillBankError:
    """Unpacking fails with this message and leaves nothing but the memory of the digest and the lock."""
    with pytest.raises((DataError, StorageError), match=says) as caught:
        unpack(path, into, limits=Limits(**limits))
    left = [p for p in into.iterdir() if p.name != ".digests" and p.suffix != ".lock"]
    assert left == []
    assert str(path) in caught.value.message
    return caught.value


@pytest.mark.parametrize("end", [".zip", *MODES])
def test_every_format(tmp_path: Path, end: str) -> None:
    archive = make(tmp_path / f"images{end}", FILES)
    folder = unpack(archive, tmp_path / "into")
    assert content(folder) == FILES
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert folder == tmp_path / "into" / digest[:32]
    manifest = json.loads(folder.with_name(f"{folder.name}.json").read_text())
    assert manifest["sha256"] == digest
    assert manifest["files"] == {name: len(body) for name, body in FILES.items()}
    assert manifest["unpacked_bytes"] == 5002


def test_names_of_archives() -> None:
    assert all(is_archive(f"x{end}") for end in (".zip", ".TAR", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"))
    assert not any(is_archive(name) for name in ("x.gz", "x.pth.tar.txt", "tar", "x.npz"))


def test_the_content_tells_the_format(tmp_path: Path) -> None:
    """A plain tar that somebody called .tar.gz."""
    archive = make(tmp_path / "a.tar", FILES)
    archive.rename(tmp_path / "a.tar.gz")
    assert content(unpack(tmp_path / "a.tar.gz", tmp_path / "into")) == FILES


def test_the_second_call_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make(tmp_path / "a.tar.gz", FILES)
    folder = unpack(archive, tmp_path / "into")
    copy = tmp_path / "copy.tar.gz"
    copy.write_bytes(archive.read_bytes())
    monkeypatch.setattr("skillbank.storage.archive.open_members", None)
    assert unpack(copy, tmp_path / "into") == folder
    monkeypatch.setattr("hashlib.file_digest", None)
    assert unpack(archive, tmp_path / "into") == folder


def test_a_changed_archive_is_another_folder(tmp_path: Path) -> None:
    one = unpack(make(tmp_path / "a.zip", {"x": b"1"}), tmp_path / "into")
    two = unpack(make(tmp_path / "a.zip", {"x": b"22"}), tmp_path / "into")
    assert (content(one), content(two)) == ({"x": b"1"}, {"x": b"22"})


@pytest.mark.parametrize("end", [".zip", ".tar.gz"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../evil", "leads out of the folder"),
        ("a/../../evil", "leads out of the folder"),
        ("/etc/evil", "is absolute"),
        ("C:\\evil", "is absolute"),
        ("a/" * 70 + "x", "too long or too deep"),
        ("n" * 1100, "too long or too deep"),
    ],
)
def test_names_that_leave_are_refused(tmp_path: Path, end: str, name: str, says: str) -> None:
    archive = make(tmp_path / f"a{end}", {"fine": b"1", name: b"evil"})
    error = refused(archive, tmp_path / "into", says)
    assert error.hint
    assert not (tmp_path / "evil").exists()


def test_backslashes_of_zip_programs_are_folders(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a\\b.txt", b"1")
    assert content(unpack(path, tmp_path / "into")) == {"a/b.txt": b"1"}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a\\..\\..\\b.txt", b"1")
    refused(path, tmp_path / "into2", "leads out of the folder")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = make_tar(tmp_path / "a.tar", member("x"), member("dev", kind))
    refused(archive, tmp_path / "into", "'dev' is a device, a pipe or of an unknown kind")


def test_links_that_stay_inside_are_kept(tmp_path: Path) -> None:
    archive = make_tar(
        tmp_path / "a.tar",
        member("d/link", tarfile.SYMTYPE, "../real/x"),
        member("folder", tarfile.SYMTYPE, "real"),
        member("real/x"),
        member("same", tarfile.LNKTYPE, "real/x"),
        body=b"content",
    )
    folder = unpack(archive, tmp_path / "into")
    assert (folder / "d" / "link").read_bytes() == (folder / "folder" / "x").read_bytes() == b"content"
    assert (folder / "same").samefile(folder / "real" / "x")
    assert (folder / "d" / "link").readlink() == Path("../real/x")


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([member("l", tarfile.SYMTYPE, "/etc/passwd")], "leads to '/etc/passwd'"),
        ([member("l", tarfile.SYMTYPE, "../../x")], "out of the folder"),
        ([member("d/l", tarfile.SYMTYPE, "../../x")], "out of the folder"),
        ([member("l", tarfile.SYMTYPE, "")], "leads to ''"),
        (
            [member("a/b/top", tarfile.SYMTYPE, "../.."), member("l", tarfile.SYMTYPE, "a/b/top/../x")],
            "out of",
        ),
        ([member("l", tarfile.LNKTYPE, "../x")], "leads out of the folder"),
        ([member("l", tarfile.LNKTYPE, "/etc/passwd")], "is absolute"),
        ([member("l", tarfile.LNKTYPE, "nothing")], "no earlier file"),
        ([member("l", tarfile.SYMTYPE, "d"), member("l/evil")], "a folder and a file or link at once"),
        ([member("d/x"), member("d", tarfile.SYMTYPE, "/tmp")], "is there twice"),
        ([member("l", tarfile.SYMTYPE, "d"), member("l")], "is there twice"),
    ],
)
def test_links_that_harm_are_refused(tmp_path: Path, members: list[tarfile.TarInfo], says: str) -> None:
    refused(make_tar(tmp_path / "a.tar", member("d/file"), *members), tmp_path / "into", says)


def test_links_in_zip_files(tmp_path: Path) -> None:
    def with_link(target: bytes) -> Path:
        path = tmp_path / "a.zip"
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x", b"1")
            archive.writestr(info, target)
        return path

    assert (unpack(with_link(b"x"), tmp_path / "into") / "link").read_bytes() == b"1"
    refused(with_link(b"../../../etc/passwd"), tmp_path / "into2", "out of the folder")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("end", [".zip", ".tar"])
@pytest.mark.parametrize("names", [("x", "x"), ("x", "./x"), ("a", "a/b"), ("a/b", "a")])
def test_names_given_twice_are_refused(tmp_path: Path, end: str, names: tuple[str, str]) -> None:
    path = tmp_path / f"a{end}"
    if end == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"1")
    else:
        make_tar(path, *(member(name) for name in names), body=b"1")
    refused(path, tmp_path / "into", "is there twice|at once")


def test_bombs(tmp_path: Path) -> None:
    zeros = {"zeros": bytes(5_000_000)}
    for end in (".zip", ".tar.gz"):
        path, into = make(tmp_path / f"bomb{end}", zeros), tmp_path / f"into{end}"
        error = refused(path, into, "more than 100 times", max_ratio=100, ratio_from_bytes=1_000_000)
        assert "SKILLBANK_ARCHIVE_MAX_RATIO" in error.hint
        refused(path, into, "unpacks to more than 1000000 bytes", max_bytes=1_000_000)
        assert (unpack(path, into) / "zeros").stat().st_size == 5_000_000
    many = make(tmp_path / "many.zip", {str(i): b"" for i in range(20)})
    refused(many, tmp_path / "into3", "more than 10 files", max_files=10)


def test_a_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    """The directory of the zip says 10 bytes, the content is longer; its check sum gives it away."""
    path = make(tmp_path / "a.zip", {"x": bytes(100_000)})
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, at + 24, 10)
    path.write_bytes(data)
    refused(path, tmp_path / "into", "damaged or cut off")


def test_a_header_that_fills_the_memory(tmp_path: Path) -> None:
    header = member("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    header.size = 3 << 30
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.write(bytes(1 << 20))
    refused(path, tmp_path / "into", "a header claims")


def test_limits_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "a.zip", {"a": b"123", "b": b"4"})
    monkeypatch.setenv("SKILLBANK_ARCHIVE_MAX_FILES", "1")
    with pytest.raises(DataError, match="more than 1 files"):
        unpack(path, tmp_path / "into")
    monkeypatch.setenv("SKILLBANK_ARCHIVE_MAX_FILES", "few")
    with pytest.raises(StorageError, match="SKILLBANK_ARCHIVE_MAX_FILES: 'few'"):
        unpack(path, tmp_path / "into")


@pytest.mark.parametrize("end", [".zip", *MODES])
def test_truncated_archives(tmp_path: Path, end: str) -> None:
    whole = make(tmp_path / f"whole{end}", {f"{i}.bin": os.urandom(3000) for i in range(5)}).read_bytes()
    for share in (0.01, 0.3, 0.6, 0.8):
        path = tmp_path / f"cut{end}"
        path.write_bytes(whole[: int(len(whole) * share)])
        error = refused(path, tmp_path / "into", "damaged or cut off|holds no file|is no readable archive")
        assert "\n" not in error.message


def test_a_tar_cut_between_two_members(tmp_path: Path) -> None:
    whole = make(tmp_path / "a.tar", {"a": b"x" * 512, "b": b"y" * 512}).read_bytes()
    for kept in (1024, 2048):
        (tmp_path / "cut.tar").write_bytes(whole[:kept])
        refused(tmp_path / "cut.tar", tmp_path / "into", "no end mark")
    broken = bytearray(whole)
    broken[1024 + 150] ^= 0xFF
    (tmp_path / "broken.tar").write_bytes(broken)
    refused(tmp_path / "broken.tar", tmp_path / "into", "no end mark")


def test_flipped_bytes(tmp_path: Path) -> None:
    for end in (".zip", ".tar.gz", ".tar.xz", ".tar.bz2"):
        data = bytearray(make(tmp_path / f"a{end}", {"a": os.urandom(4000)}).read_bytes())
        data[2000] ^= 0xFF
        (tmp_path / f"b{end}").write_bytes(data)
        # bzip2 may find the damage in its first block, before a member is seen
        refused(tmp_path / f"b{end}", tmp_path / "into", "damaged or cut off|is no readable archive")


def test_encrypted_zip(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", {"x": b"1"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    error = refused(path, tmp_path / "into", "1 files in it are encrypted, 'x' first")
    assert "unzip" in error.hint


def test_no_archive_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("<html>not found</html>")
    (tmp_path / "b.tar.gz").write_bytes(b"")
    error = refused(
        tmp_path / "a.zip", tmp_path / "into", "a.zip: is no readable archive: truncated or another"
    )
    assert "\n" not in error.message
    assert "ReadError" not in error.message
    (tmp_path / "e.zip").write_bytes(b"")
    refused(tmp_path / "b.tar.gz", tmp_path / "into", "b.tar.gz: the file is empty")
    refused(tmp_path / "e.zip", tmp_path / "into", "e.zip: the file is empty")
    refused(make(tmp_path / "c.tar", {}), tmp_path / "into", "holds no file|damaged")
    with pytest.raises(NotFoundError, match=r"d.zip: no such file"):
        unpack(tmp_path / "d.zip", tmp_path / "into")


def test_an_archive_inside_stays_a_file(tmp_path: Path) -> None:
    inner = make(tmp_path / "inner.tar.gz", {"../evil": b"1"}).read_bytes()
    folder = unpack(make(tmp_path / "a.zip", {"d/inner.tar.gz": inner}), tmp_path / "into")
    assert content(folder) == {"d/inner.tar.gz": inner}


def test_litter_of_desktops_is_left_out(tmp_path: Path) -> None:
    files = {
        "images/a.png": b"1",
        "images/._a.png": b"x",
        "__MACOSX/images/._a.png": b"x",
        "images/.DS_Store": b"x",
    }
    folder = unpack(make(tmp_path / "a.zip", files), tmp_path / "into")
    assert content(folder) == {"images/a.png": b"1"}
    assert content_folder(folder).name == "images"


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make(tmp_path / "a.zip", {"a": b"1", "b": bytes(1000)})
    real = Path.open

    class Full(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    def refuse(self: Path, mode: str = "r", *args: object, **options: object) -> object:
        return Full() if mode == "xb" and self.name == "b" else real(self, mode, *args, **options)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(StorageError, match=r"the disk is full: 1001 bytes .* are needed, \d+ bytes"):
            unpack(archive, tmp_path / "into")
    assert [
        p for p in (tmp_path / "into").iterdir() if p.suffix not in (".lock",) and p.name != ".digests"
    ] == []
    assert len(content(unpack(archive, tmp_path / "into"))) == 2


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", FILES)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:32]
    (tmp_path / "into" / f".{digest}.tmp" / "half").mkdir(parents=True)
    (tmp_path / "into" / digest).mkdir()
    assert content(unpack(archive, tmp_path / "into")) == FILES
    assert not (tmp_path / "into" / f".{digest}.tmp").exists()


def test_two_processes_at_once(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.tar", {f"{i}": bytes(100) for i in range(300)})
    program = (
        "import sys; from pathlib import Path; from skillbank.storage.archive import unpack\n"
        "print(unpack(Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    argv = [sys.executable, "-c", program, str(archive), str(tmp_path / "into")]
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(folders) == 1
    assert len(content(Path(folders.pop()))) == 300


@pytest.mark.parametrize(
    ("files", "extract", "to_parent"),
    [
        (["a.png", "b.png"], "", ""),
        (["images/a.png"], "images", "images"),
        (["train2017/a.png"], "train2017", ""),
        (["data/scene/a.png"], "data", ""),
        (["set/data/scene/a.png"], "set", "set"),
        (["scene1/a.png", "scene2/a.png"], "", ""),
        (["scene1/a.png"], "scene1", ""),
        (["data/s/a.png", "depth_gen/s/a.png"], "", ""),
    ],
)
def test_flat_or_with_one_folder(tmp_path: Path, files: list[str], extract: str, to_parent: str) -> None:
    folder = unpack(make(tmp_path / "images.tar.gz", dict.fromkeys(files, b"1")), tmp_path / "into")
    assert content_folder(folder) == folder / extract
    assert parent_folder(folder, "images.tar.gz") == folder / to_parent


def test_fetch_any_with_archives(
    storage: Storage, fill: Callable[[dict[str, bytes]], None], bucket: str, tmp_path: Path
) -> None:
    archive = make(tmp_path / "images.tar.gz", {"images/a.png": b"1"})
    fill({"set/data/images.tar.gz": archive.read_bytes(), "set/flat/a.png": b"1", "set/x.json": b"{}"})
    for place in (str(archive), archive.as_uri(), f"s3://{bucket}/set/data/images.tar.gz"):
        assert storage.fetch_any(place).name == "images.tar.gz"
        extracted = storage.fetch_any(place, archive="extract")
        assert [p.name for p in extracted.iterdir()] == ["a.png"]
        parent = storage.fetch_any(place, archive="extract_to_parent")
        assert [p.name for p in parent.iterdir()] == ["a.png"]
    assert storage.fetch_any(f"s3://{bucket}/set/flat", archive="extract").name == "flat"
    assert storage.fetch_any(f"s3://{bucket}/set/x.json", archive="extract").read_bytes() == b"{}"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "home") == ["cache", "images.tar.gz"]
