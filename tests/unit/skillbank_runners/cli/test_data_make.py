"""``skillbank data make``."""

from collections.abc import Callable
from pathlib import Path

import pytest

from skillbank import runtime
from skillbank_runners.cli import data_make


def test_a_data_set_that_the_checks_accept(cli: Callable, tmp_path: Path) -> None:
    root = tmp_path / "train"
    seen = cli(
        "skillbank", "data", "make", "mask2former", "--images", "2", "--size", "48x64", "--seed", "1",
        "--empty", "1", "--to", str(root),
    )  # fmt: skip
    assert seen.code == 0, seen.err
    made = seen.json()
    assert made["path"] == str(root)
    assert made["formats"] == ["coco_panoptic", "coco", "ade"]
    assert (made["images"], made["num_classes"]) == (2, 8)
    assert "2 images in" in seen.err
    for kind in made["formats"]:
        checked = cli(
            "skillbank", "data", "check", "mask2former", "train", "--train", str(root), "--eval", str(root),
            "--format", kind,
        )  # fmt: skip
        assert checked.code == 0, checked.err


def test_one_format_and_the_form_of_the_answer(cli: Callable, tmp_path: Path) -> None:
    line = ("skillbank", "data", "make", "mask2former", "--images", "1", "--size", "48x64")
    seen = cli(*line, "--format", "ade", "--to", str(tmp_path / "ade"), "-o", "id")
    assert seen.out.strip() == str(tmp_path / "ade")
    assert not (tmp_path / "ade/annotations.json").exists()


def test_rooms(cli: Callable, tmp_path: Path) -> None:
    root = tmp_path / "rooms"
    seen = cli(
        "skillbank", "data", "make", "nvpanoptix3d", "--format", "matterport", "--scenes", "1",
        "--images-per-scene", "2", "--workers", "1", "--size", "48x64", "--to", str(root),
    )  # fmt: skip
    assert seen.code == 0, seen.err
    made = seen.json()
    assert (made["format"], made["scenes"], made["images"]) == ("matterport", 1, 2)
    assert "2 images in" in seen.err
    checked = cli(
        "skillbank", "data", "check", "nvpanoptix3d", "train", "--train", str(root), "--eval", str(root),
        "--dataset-format", "matterport",
    )  # fmt: skip
    assert checked.code == 0, checked.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ["mask2former", "--format", "front3d"],
            2,
            "no made-up data in format 'front3d'; use all or coco_panoptic",
        ),
        (["mask2former", "--size", "480"], 2, "'480' is no HEIGHTxWIDTH"),
        (["mask2former", "--size", "8x8"], 2, "sides from 32 to 8192"),
        (["mask2former", "--images", "0"], 2, "--images"),
        (["mask2former", "--images", "1", "--empty", "2"], 2, "2 of 1 images cannot be empty"),
        (["mask2former", "--scenes", "2"], 2, "--scenes: not an option of made-up data for mask2former"),
        (
            ["mask2former", "--workers", "2", "--held-out", "0.2"],
            2,
            "--held-out, --workers: not an option of made-up data for mask2former, which",
        ),
        (["nvpanoptix3d", "--images", "4"], 2, "--images: not an option of made-up data for nvpanoptix3d"),
        (["nvpanoptix3d", "--format", "all"], 2, "in format 'all'; use front3d, matterport"),
        (["nvpanoptix3d", "--scenes", "2", "--empty", "3"], 2, "3 of 2 scenes cannot be empty"),
        (["mask3former"], 4, "mask3former"),
    ],
)
def test_wrong_requests(words: list[str], code: int, said: str, cli: Callable, tmp_path: Path) -> None:
    seen = cli("skillbank", "data", "make", *words, "--to", str(tmp_path / "x"))
    assert seen.code == code
    assert said in seen.err
    assert not (tmp_path / "x").exists()


def test_what_is_there_stays(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    seen = cli("skillbank", "data", "make", "mask2former", "--to", str(tmp_path))
    assert seen.code == 3
    assert "nothing is overwritten" in seen.err
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["file"]


def test_without_the_runtime_it_says_how_to_get_it(
    cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "is_installed", lambda module: module != "torch")
    seen = cli("skillbank", "data", "make", "mask2former", "--to", str(tmp_path / "x"))
    assert seen.code == 5
    assert "skillbank[runtime]" in seen.err


def test_networks_without_made_up_data(
    cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "require_runtime", lambda network: None)
    monkeypatch.setattr(runtime, "is_installed", lambda module: False)
    seen = cli("skillbank", "data", "make", "sparse4d", "--to", str(tmp_path / "x"))
    assert seen.code == 2
    assert "sparse4d has no made-up data" in seen.err


def test_a_bar_on_terminals_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with data_make._bar(3) as progress:
        progress(1)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # the bar asks by itself whether this is a terminal
    monkeypatch.setattr(data_make, "for_people", lambda stream: True)
    with data_make._bar(3) as progress:
        progress(3)
    assert "drawing" in capsys.readouterr().err
