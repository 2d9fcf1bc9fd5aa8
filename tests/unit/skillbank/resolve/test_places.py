from pathlib import Path

import pytest

from skillbank.errors import InvalidValueError
from skillbank.jobs.record import Datasets
from skillbank.resolve.places import absolute, absolute_datasets, absolute_places
from skillbank.resolve.values import flatten, is_set
from skillbank.skill_info import load_skill_info
from skillbank.specs import network, spec_class

HERE = Path("/srv/here")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("data/x", "/srv/here/data/x"),
        ("./data", "/srv/here/data"),
        ("/data", "/data"),
        ("s3://bucket/x", "s3://bucket/x"),
        ("file:///data", "file:///data"),
        ("${results_dir}/train", "${results_dir}/train"),
        ("???", "???"),
        ("", ""),
    ],
)
def test_paths_are_seen_from_the_folder_of_the_caller(place: str, expected: str) -> None:
    assert absolute(place, HERE) == expected


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")

    assert absolute("~/data", HERE) == "/home/someone/data"


def test_datasets() -> None:
    given = Datasets(train=("a", "s3://bucket/c"), eval="d", format="coco")

    assert absolute_datasets(given, HERE) == Datasets(
        train=("/srv/here/a", "s3://bucket/c"), eval="/srv/here/d", format="coco"
    )


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("/data/", "/data/images"),
        ("data", "/srv/here/data/images"),
        ("s3://bucket/data", "s3://bucket/data/images"),
        ("", "/srv/here/images"),
        (None, "/srv/here/images"),
    ],
)
def test_a_root_folder_comes_first(root: str | None, expected: str) -> None:
    info = load_skill_info(network("mask2former"))
    given = {
        "dataset.train.root_dir": root,
        "dataset.train.img_dir": "images",
        "dataset.train.annot_file": "/else/where.json",
        "dataset.val.img_dir": "images",
    }
    found = absolute_places(given, info, "train", HERE)
    assert found["dataset.train.img_dir"] == expected
    assert found["dataset.train.annot_file"] == "/else/where.json"
    assert found["dataset.val.img_dir"] == "/srv/here/images"


def test_only_files_and_folders_of_the_action_are_touched() -> None:
    info = load_skill_info(network("mask2former"))
    given = {
        "dataset.train.img_dir": "images",
        "dataset.train.type": "coco",
        "model.mode": "semantic",
        "train.num_epochs": 3,
        "train.resume_training_checkpoint_path": "last.pth",
        "results_dir": "out",
        "train.results_dir": None,
        "encryption_key": "abc",
    }

    assert absolute_places(given, info, "train", HERE) == {
        **given,
        "dataset.train.img_dir": "/srv/here/images",
        "train.resume_training_checkpoint_path": "/srv/here/last.pth",
        "results_dir": "/srv/here/out",
    }


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("inference.intrinsics", "camera.txt", "/srv/here/camera.txt"),
        ("inference.intrinsics", "camera_head", "camera_head"),
        ("inference.intrinsics", "dataset", "dataset"),
        ("dataset.frustum_mask_path", "mask.npz", "/srv/here/mask.npz"),
        ("dataset.frustum_mask_path", "meta/frustum_mask.npz", "meta/frustum_mask.npz"),
    ],
)
def test_words_that_are_no_places(key: str, value: str, expected: str) -> None:
    """The documented frustum mask is looked for in the data set."""
    info = load_skill_info(network("nvpanoptix3d"))
    assert absolute_places({key: value}, info, "inference", HERE) == {key: expected}


def test_lists_of_places() -> None:
    info = load_skill_info(network("oneformer"))

    found = absolute_places({"dataset.train.images": ["a", "/b"]}, info, "train", HERE)

    assert found == {"dataset.train.images": ["/srv/here/a", "/b"]}


def test_flat_and_nested_are_the_same() -> None:
    nested = {"train": {"optim": {"lr": 0.1}, "gpu_ids": [0, 1]}, "results_dir": "x"}
    flat = {"train.optim.lr": 0.1, "train.gpu_ids": [0, 1], "results_dir": "x"}

    assert flatten(nested, spec_class("mask2former", "train")) == flat


def test_maps_that_are_values_stay_whole() -> None:
    nested = {"aicity": {"class_config": {"SUB_CLASS_DICT": {"person": ["Person"]}}}}

    assert flatten(nested, spec_class("sparse4d", "dataset_convert")) == {
        "aicity.class_config.SUB_CLASS_DICT": {"person": ["Person"]}
    }


@pytest.mark.parametrize(
    ("value", "says_something"),
    [
        (None, False),
        ("", False),
        ("???", False),
        ([], False),
        (0, True),
        (False, True),
        ("x", True),
        ([0], True),
    ],
)
def test_is_set(value: object, says_something: bool) -> None:
    assert is_set(value) == says_something


def test_an_address_with_a_login_is_refused_without_telling_it() -> None:
    """A record of the job would hold the password."""
    login = "https://me:passw0rd@host/data"
    info = load_skill_info(network("mask2former"))
    for refuse, key in (
        (lambda: absolute_datasets(Datasets(train=(login,)), HERE), "--train-dataset-uri"),
        (
            lambda: absolute_places({"dataset.train.img_dir": [login]}, info, "train", HERE),
            "dataset.train.img_dir",
        ),
    ):
        with pytest.raises(InvalidValueError, match="https://host/data holds a login") as caught:
            refuse()
        assert caught.value.key == key
        assert "netrc" in caught.value.hint
        assert "passw0rd" not in f"{caught.value.to_dict()}"


def test_a_signed_link_is_refused_without_telling_it() -> None:
    info = load_skill_info(network("mask2former"))
    link = "https://host/weights.pth?X-Amz-Credential=AKIA&X-Amz-Signature=5ecre7"
    with pytest.raises(InvalidValueError, match=r"https://host/weights\.pth.* holds a signature") as caught:
        absolute_places({"train.pretrained_model_path": link}, info, "train", HERE)
    assert "skillbank data fetch" in caught.value.hint
    assert "5ecre7" not in f"{caught.value.to_dict()}"
    plain = {"train.pretrained_model_path": "https://host/weights.pth?version=3"}
    assert absolute_places(plain, info, "train", HERE) == plain
