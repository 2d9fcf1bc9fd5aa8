"""Which files of a folder are images."""

from pathlib import Path

import pytest

from skillbank.errors import DataError, MissingFilesError
from skillbank_models.data.folder import find_images

KEY = "dataset.test.img_dir"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_all_images_below_sorted_with_their_folders(tmp_path: Path) -> None:
    touch(tmp_path, "b.PNG", "a.jpg", "a.png", "sub/deep/c.JpEg", "sub/d.webp", "notes.txt", ".hidden.png",
          ".cache/e.png", "mask.npz")  # fmt: skip
    assert find_images(tmp_path, key=KEY) == ["a.jpg", "a.png", "b.PNG", "sub/d.webp", "sub/deep/c.JpEg"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "data/a.png")
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen/linked").symlink_to(tmp_path / "data")
    assert find_images(tmp_path / "data", key=KEY) == ["a.png"]
    assert find_images(tmp_path / "seen", key=KEY) == ["linked/a.png"]


def test_missing_empty_and_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(MissingFilesError, match=r"dataset\.test\.img_dir: .*gone is no folder"):
        find_images(tmp_path / "gone", key=KEY)
    with pytest.raises(MissingFilesError, match=r"no image in .*; it is empty") as caught:
        find_images(tmp_path, key=KEY)
    assert ".jpg, .png" in caught.value.hint
    touch(tmp_path, "a.txt", "b.npy")
    with pytest.raises(MissingFilesError, match=r"there are files of kind \.npy, \.txt"):
        find_images(tmp_path, key=KEY)
    with pytest.raises(DataError, match=r"a\.txt is a file; the folder of the images is expected") as caught:
        find_images(tmp_path / "a.txt", key=KEY)
    assert caught.value.hint == f"{KEY}={tmp_path}"
