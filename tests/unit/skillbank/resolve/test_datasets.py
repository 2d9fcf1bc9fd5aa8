from collections.abc import Iterator
from pathlib import Path

import pytest
from job_bench import Bench, join_network

from skillbank.errors import MissingFilesError, MissingValueError, NotFoundError, UsageError
from skillbank.jobs.record import Datasets
from skillbank.resolve.datasets import (
    Expected,
    build_spec_overrides,
    check_data,
    dataset_format,
    missing_data,
    resolve_data_sources,
    settle,
)
from skillbank.skill_info import load_skill_info
from skillbank.specs import network as find_network
from skillbank.specs import networks
from skillbank.specs.base import walk
from skillbank.storage import Storage

T, E, I, C = "s3://bucket/data/train", "s3://bucket/data/eval", "s3://bucket/data/infer", "s3://bucket/calib"  # noqa: E741

# Document 001, "Typical Spec Overrides": the keys that come from datasets.
DOCUMENT_001 = {
    "train": {
        "dataset.frustum_mask_path": f"{T}/meta/frustum_mask.npz",
        "dataset.label_map": f"{T}/meta/colormap.json",
        "dataset.train.json_path": f"{T}/meta/train.json",
        "dataset.train.base_dir": T,
        "dataset.val.json_path": f"{E}/meta/val.json",
        "dataset.val.base_dir": E,
        "dataset.test.json_path": f"{E}/meta/test.json",
        "dataset.test.base_dir": E,
    },
    "evaluate": {
        "dataset.frustum_mask_path": f"{E}/meta/frustum_mask.npz",
        "dataset.label_map": f"{E}/meta/colormap.json",
        "dataset.val.json_path": f"{E}/meta/val.json",
        "dataset.val.base_dir": E,
        "dataset.test.json_path": f"{E}/meta/test.json",
        "dataset.test.base_dir": E,
    },
    "inference": {
        "dataset.frustum_mask_path": f"{E}/meta/frustum_mask.npz",
        "dataset.label_map": f"{E}/meta/colormap.json",
        "inference.images_dir": f"{E}/images.tar.gz",
    },
}
# Document 001, "Per-Action Dataset Requirements": action, key, source, file.
ROWS_001 = [
    ("evaluate", "dataset.frustum_mask_path", "eval_dataset", "meta/frustum_mask.npz"),
    ("evaluate", "dataset.label_map", "eval_dataset", "meta/colormap.json"),
    ("evaluate", "dataset.val.json_path", "eval_dataset", "meta/val.json"),
    ("evaluate", "dataset.val.base_dir", "eval_dataset", ""),
    ("evaluate", "dataset.test.json_path", "inference_dataset", "meta/test.json"),
    ("evaluate", "dataset.test.base_dir", "inference_dataset", ""),
    ("inference", "dataset.frustum_mask_path", "inference_dataset", "meta/frustum_mask.npz"),
    ("inference", "dataset.label_map", "inference_dataset", "meta/colormap.json"),
    ("inference", "inference.images_dir", "inference_dataset", "images.tar.gz"),
    ("train", "dataset.frustum_mask_path", "train_datasets", "meta/frustum_mask.npz"),
    ("train", "dataset.label_map", "train_datasets", "meta/colormap.json"),
    ("train", "dataset.train.json_path", "train_datasets", "meta/train.json"),
    ("train", "dataset.train.base_dir", "train_datasets", ""),
    ("train", "dataset.val.json_path", "eval_dataset", "meta/val.json"),
    ("train", "dataset.val.base_dir", "eval_dataset", ""),
    ("train", "dataset.test.json_path", "inference_dataset", "meta/test.json"),
    ("train", "dataset.test.base_dir", "inference_dataset", ""),
]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "home")
    yield made
    made.store.close()


def test_b04_overrides_are_those_of_the_document() -> None:
    assert build_spec_overrides("nvpanoptix3d", "train", train=T, eval=E) == DOCUMENT_001["train"]
    assert build_spec_overrides("nvpanoptix3d", "evaluate", eval=E) == DOCUMENT_001["evaluate"]
    assert build_spec_overrides("nvpanoptix3d", "inference", inference=E) == DOCUMENT_001["inference"]


def test_b04_a_missing_dataset_lists_every_key_with_its_flag() -> None:
    with pytest.raises(MissingValueError) as caught:
        build_spec_overrides("nvpanoptix3d", "train", train=T)

    keys = {problem.key for problem in caught.value.problems}
    assert keys == {"dataset.val.json_path", "dataset.val.base_dir"}
    assert "--eval-dataset-uri" in caught.value.message
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("action", ["train", "evaluate", "inference"])
def test_b04_nothing_given_is_an_error_for_every_action(action: str) -> None:
    with pytest.raises(MissingValueError):
        build_spec_overrides("nvpanoptix3d", action)


def test_missing_data_is_what_a_launch_without_datasets_asks_for() -> None:
    def keys(network: str, action: str, **flat: str) -> set[str | None]:
        return {problem.key for problem in missing_data(network, action, flat)}

    everything = keys("oneformer", "train")
    assert {"dataset.train.images", "dataset.val.annotations", "dataset.label_map"} <= everything
    assert keys("oneformer", "export") == set()
    left = keys("oneformer", "train", **{"dataset.train.images": "/t", "dataset.val.images": "/v"})
    assert left == set()


def test_an_alternative_never_repeats_the_path() -> None:
    found = resolve_data_sources("mask2former", "train", Datasets(train=(T,), eval=E, format="coco"), None)
    panoptic = resolve_data_sources(
        "mask2former", "train", Datasets(train=(T,), eval=E, format="coco_panoptic"), None
    )

    of = {item.key: item.alternatives for item in found.expected}
    assert of["dataset.label_map"] == ()
    assert {item.key: item.alternatives for item in panoptic.expected}["dataset.label_map"] == (
        f"{T}/label_map.json",
    )


def test_export_needs_no_data() -> None:
    assert build_spec_overrides("nvpanoptix3d", "export") == {}


@pytest.mark.parametrize(("action", "key", "source", "path"), ROWS_001)
def test_b05_rows_of_the_document(action: str, key: str, source: str, path: str) -> None:
    rule = load_skill_info(find_network("nvpanoptix3d")).data_sources[action][key]

    assert rule.source[0] == source
    assert rule.path == path
    assert not rule.multiple


def test_b05_has_no_other_rows() -> None:
    sources = load_skill_info(find_network("nvpanoptix3d")).data_sources
    rows = {(action, key) for action, rules in sources.items() for key, rule in rules.items() if rule.source}

    assert rows == {(action, key) for action, key, _, _ in ROWS_001}
    assert len(ROWS_001) == 17


def test_a_format_adds_what_follows_from_it() -> None:
    plain = build_spec_overrides("nvpanoptix3d", "evaluate", eval=E)
    found = build_spec_overrides("nvpanoptix3d", "evaluate", eval=E, format="matterport")

    assert {key: found[key] for key in found.keys() - plain.keys()} == {
        "dataset.name": "matterport",
        "dataset.downsample_factor": 2,
        "dataset.iso_value": 2.0,
        "dataset.contiguous_id": True,
    }


def test_the_first_source_that_is_given_wins() -> None:
    both = build_spec_overrides("nvpanoptix3d", "evaluate", eval=E, inference=I)

    assert both["dataset.test.base_dir"] == I
    assert both["dataset.val.base_dir"] == E


def test_mask2former_asks_for_what_its_format_has() -> None:
    panoptic = build_spec_overrides("mask2former", "train", train=T, eval=E, format="coco_panoptic")
    instance = build_spec_overrides("mask2former", "train", train=T, eval=E, format="coco")

    assert panoptic["dataset.train.panoptic_json"] == f"{T}/annotations_panoptic.json"
    assert panoptic["dataset.val.panoptic_dir"] == f"{E}/images_panoptic.tar.gz"
    assert panoptic["dataset.train.type"] == "coco_panoptic"
    assert "dataset.train.instance_json" not in panoptic
    assert instance["dataset.train.instance_json"] == f"{T}/annotations.json"
    assert instance["dataset.val.type"] == "coco"
    assert "dataset.train.panoptic_json" not in instance
    assert panoptic["dataset.label_map"].endswith("label_map_panoptic.json")
    assert instance["dataset.label_map"].endswith("label_map.json")


def test_calibration_data_falls_back_to_the_training_data() -> None:
    key = "dataset.quant_calibration_dataset.images_dir"

    assert build_spec_overrides("oneformer", "quantize", train=T)[key] == f"{T}/images.tar.gz"
    assert build_spec_overrides("oneformer", "quantize", train=T, calibration=C)[key] == f"{C}/images.tar.gz"


@pytest.mark.parametrize("root", ["s3://bucket/data/", "/data/set/", "data/set//"])
def test_a_slash_at_the_end_makes_no_difference(root: str) -> None:
    found = build_spec_overrides("nvpanoptix3d", "evaluate", eval=root)

    assert found["dataset.test.base_dir"] == root.rstrip("/")
    assert found["dataset.test.json_path"] == f"{root.rstrip('/')}/meta/test.json"


def test_an_empty_dataset_is_an_unset_variable() -> None:
    with pytest.raises(UsageError, match="--eval-dataset-uri: the dataset is an empty text"):
        build_spec_overrides("nvpanoptix3d", "evaluate", eval=" ")


def test_two_datasets_for_a_key_that_takes_one() -> None:
    with pytest.raises(UsageError, match="2 datasets are given"):
        build_spec_overrides("nvpanoptix3d", "train", train=[T, I], eval=E)


def test_a_format_the_network_does_not_read() -> None:
    with pytest.raises(UsageError, match="nvpanoptix3d does not read 'coco'") as caught:
        build_spec_overrides("nvpanoptix3d", "evaluate", eval=E, format="coco")

    assert caught.value.allowed
    assert "front3d" in caught.value.allowed


def test_an_unknown_action_is_not_an_empty_answer() -> None:
    with pytest.raises(NotFoundError):
        build_spec_overrides("nvpanoptix3d", "fly", train=T)


@pytest.mark.parametrize(
    ("network", "flag", "spec", "expected"),
    [
        ("mask2former", "ade", {"dataset": {"train": {"type": "coco"}}}, "ade"),
        ("mask2former", None, {"dataset": {"train": {"type": "coco"}}}, "coco"),
        ("mask2former", None, {"dataset": {"type": "ade"}}, "ade"),
        ("mask2former", None, {}, "coco_panoptic"),
        ("nvpanoptix3d", None, {"dataset": {"name": "matterport"}}, "matterport"),
        ("nvpanoptix3d", None, {"dataset": {"name": "synthetic_hospital"}}, "synthetic_hospital"),
        ("nvpanoptix3d", None, {"dataset": {"downsample_factor": 2}}, "front3d"),
        ("sparse4d", None, {}, "ovpkl"),
    ],
)
def test_the_format_comes_from_flag_spec_or_skill(
    network: str, flag: str | None, spec: dict[str, object], expected: str
) -> None:
    assert dataset_format(network, "train", Datasets(format=flag), spec)[0] == expected


def test_constants_yield_to_the_spec_and_named_formats_do_not() -> None:
    told = resolve_data_sources(
        "nvpanoptix3d", "train", Datasets(train=(T,), eval=E, format="matterport"), None
    )
    guessed = resolve_data_sources(
        "nvpanoptix3d", "train", Datasets(train=(T,), eval=E), {"dataset_format": "matterport"}
    )

    assert told.implied == {"dataset.contiguous_id"}
    assert {"dataset.name", "dataset.downsample_factor", "dataset.iso_value"} < guessed.implied
    assert told.values["dataset.iso_value"] == guessed.values["dataset.iso_value"] == 2.0


def test_every_value_says_where_it_comes_from() -> None:
    found = resolve_data_sources("nvpanoptix3d", "train", Datasets(train=(T,), eval=E), None)

    assert found.details.keys() == found.values.keys()
    assert found.details["dataset.train.json_path"] == "train_datasets, meta/train.json"
    assert found.details["dataset.val.base_dir"] == "eval_dataset, its root"


def test_conversion_without_a_job_uses_the_documented_names() -> None:
    found = build_spec_overrides("sparse4d", "train", train="/scenes", eval="/scenes")

    assert found["dataset.data_root"] == "/scenes/train"
    assert found["model.head.instance_bank.anchor"] == "/scenes/anchor_init.npy"
    assert found["dataset.val_dataset.ann_file"] == "/scenes/val"


def test_a_parent_that_converted_the_dataset_is_used(bench: Bench) -> None:
    convert = bench.job("sparse4d", "dataset_convert", {"aicity": {"root": "/scenes", "split": "train,val"}})
    train = bench.job("sparse4d", "train", parent=convert)

    for parent in (convert, train):
        found = resolve_data_sources(
            "sparse4d",
            "train",
            Datasets(train=("/scenes",), eval="/scenes"),
            None,
            bench.store,
            parent=parent,
        )
        assert found.missing == []
        assert found.values["dataset.data_root"] == "/scenes/train"
        assert found.values["model.head.instance_bank.anchor"] == f"{convert.results_dir}/anchor_init.npy"
        assert found.values["dataset.train_dataset.ann_file"] == f"{convert.results_dir}/train"
        assert found.values["dataset.val_dataset.ann_file"] == f"{convert.results_dir}/val"
        assert convert.id in found.details["dataset.val_dataset.ann_file"]


def test_the_split_of_the_conversion_is_used(bench: Bench) -> None:
    convert = bench.job("sparse4d", "dataset_convert", {"aicity": {"root": "/scenes", "split": "test"}})

    found = resolve_data_sources(
        "sparse4d", "train", Datasets(train=("/scenes",)), None, bench.store, parent=convert
    )

    assert found.values["dataset.data_root"] == "/scenes/test"
    assert found.values["dataset.train_dataset.ann_file"] == f"{convert.results_dir}/test"


def test_a_dataset_that_is_the_result_of_a_conversion_names_the_job(bench: Bench) -> None:
    bench.job("sparse4d", "dataset_convert", {"aicity": {"root": "/other", "split": "val"}})
    convert = bench.job("sparse4d", "dataset_convert", {"aicity": {"root": "/scenes/", "split": "train"}})

    datasets = Datasets(train=(f"{convert.results_dir}/",))
    found = resolve_data_sources("sparse4d", "train", datasets, None, bench.store)

    assert found.values["dataset.data_root"] == "/scenes/train"
    assert found.values["dataset.train_dataset.ann_file"] == f"{convert.results_dir}/train"


def test_files_of_a_conversion_that_still_runs_are_not_expected_yet(bench: Bench) -> None:
    convert = bench.job("sparse4d", "dataset_convert", {"aicity": {"root": "/scenes"}}, state="running")

    found = resolve_data_sources(
        "sparse4d", "train", Datasets(train=("/scenes",)), None, bench.store, parent=convert
    )

    assert {item.key for item in found.expected} == {"dataset.data_root"}
    assert found.values["dataset.train_dataset.ann_file"]


def test_check_data_lists_everything_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "val.json").write_text("[]")
    found = resolve_data_sources("nvpanoptix3d", "evaluate", Datasets(eval=str(tmp_path)), None)

    with pytest.raises(MissingFilesError) as caught:
        check_data(found.expected, Storage())

    text = caught.value.message
    for name in ("frustum_mask.npz", "colormap.json", "test.json"):
        assert f"{tmp_path}/meta/{name}" in text
    assert "val.json" not in text
    assert "base_dir" not in text

    for name in ("frustum_mask.npz", "colormap.json", "test.json"):
        (tmp_path / "meta" / name).write_text("x")
    check_data(found.expected, Storage())


def test_check_data_takes_any_of_the_places_that_serve(tmp_path: Path) -> None:
    item = Expected(
        key="k", uri=str(tmp_path / "images.tar.gz"), kind="folder", alternatives=(str(tmp_path / "images"),)
    )

    with pytest.raises(MissingFilesError, match=r"images\.tar\.gz \(nor .*images\)"):
        check_data([item], Storage())

    (tmp_path / "images").mkdir()
    check_data([item], Storage())


def test_optional_data_may_be_missing(tmp_path: Path) -> None:
    check_data([Expected(key="k", uri=str(tmp_path / "gone"), kind="file", optional=True)], Storage())


@pytest.mark.parametrize(
    ("there", "is_root", "optional", "expected"),
    [
        ({"a", "b"}, False, False, {}),
        ({"b", "c"}, False, False, {"k": "b"}),
        ({"c"}, False, False, {"k": "c"}),
        (set(), False, False, {}),
        (set(), False, True, {"k": None}),
        ({"a", "b"}, True, False, {"k": "b"}),
        ({"a"}, True, False, {}),
        ({"a"}, True, True, {}),
        (set(), True, True, {"k": None}),
    ],
)
def test_settle_chooses_the_place_that_serves(
    there: set[str], is_root: bool, optional: bool, expected: dict[str, str | None]
) -> None:
    item = Expected(
        key="k", uri="a", kind="file", alternatives=("b", "c"), is_root=is_root, optional=optional
    )

    assert settle([item], there.__contains__) == expected


def test_settle_gives_up_optional_data_without_alternatives() -> None:
    items = [
        Expected(key="k", uri="a", kind="file", optional=True),
        Expected(key="needed", uri="b", kind="file"),
    ]

    assert settle(items, set[str]().__contains__) == {"k": None}


def test_a_key_that_takes_several_datasets_gets_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {
        "train": {"dataset.train.images": {"source": ["train_datasets"], "path": "images", "multiple": True}}
    }
    join_network(monkeypatch, tmp_path, "oneformer", info={"data_sources": rules})

    assert build_spec_overrides("oneformer", "train", train=[T, I]) == {
        "dataset.train.images": [f"{T}/images", f"{I}/images"]
    }
    assert build_spec_overrides("oneformer", "train", train=T) == {"dataset.train.images": [f"{T}/images"]}


def test_every_rule_names_keys_that_the_spec_has() -> None:
    seen = 0
    for network in networks():
        for action, rules in load_skill_info(network).data_sources.items():
            keys = {key for key, _, nested in walk(network.actions[action]) if nested is None}
            for key, rule in rules.items():
                seen += 1
                assert key in keys, f"{network.name} {action}"
                origins = [
                    bool(rule.source or rule.convert_job),
                    rule.value is not None,
                    bool(rule.value_from_metadata),
                ]
                assert sum(origins) == 1, f"{network.name} {action} {key}"
    assert seen > 100
