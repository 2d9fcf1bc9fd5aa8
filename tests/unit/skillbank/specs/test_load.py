"""Merging, references, overrides, and what a user is told when a spec is wrong."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from skillbank.errors import (
    ConflictError,
    InvalidValueError,
    MissingValueError,
    NotFoundError,
    SkillBankError,
    SpecError,
    UnknownKeyError,
)
from skillbank.specs import network_names, networks
from skillbank.specs.load import (
    ORIGINS,
    Layer,
    ResolvedSpec,
    build_spec,
    canonical,
    chosen,
    default_spec,
    load_yaml,
    missing_keys,
    read_spec,
    to_yaml,
)

DATA = Path(__file__).resolve().parents[4].parent / "shared/data/specs"


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKILLBANK_NETWORKS", "plain_network")


def train(*layers: Layer | dict[str, Any], draft: bool = False) -> ResolvedSpec:
    """A training spec; plain maps are files, and the one mandatory key is given."""
    given = [layer if isinstance(layer, Layer) else Layer("file", "spec.yaml", layer) for layer in layers]
    root = Layer("dataset", "train", {"dataset.root": "/data"})
    return build_spec("plain", "train", [root, *given], draft=draft)


def problems(error: SkillBankError) -> list[SkillBankError]:
    return list(error.problems) or [error]


def fails(*layers: Layer | dict[str, Any]) -> SpecError:
    with pytest.raises(SpecError) as caught:
        train(*layers)
    return caught.value


def test_private_modules_and_load_are_no_networks() -> None:
    assert not {"load", "common", "base"} & set(network_names())
    assert not [name for name in network_names() if name.startswith("_")]
    assert "plain" in network_names()


def test_layers_win_key_by_key_and_remember_their_origin() -> None:
    found = train(
        {"train": {"num_epochs": 3, "optim": {"lr": 0.01, "scales": {"neck": 1}}}},
        Layer("override", "command line", {"train.optim.lr": 0.02}),
    )
    nested = found.nested()
    assert nested["train"]["num_epochs"] == 3
    assert nested["train"]["optim"]["lr"] == 0.02
    assert nested["train"]["optim"]["scales"] == {"backbone": {"lr_mult": 0.2}, "neck": 1}
    assert (found.origins["train.optim.lr"].kind, found.origins["train.optim.lr"].detail) == (
        "override",
        "command line",
    )
    assert found.origins["train.num_epochs"].kind == "file"
    assert found.origins["train.fast"].kind == "default"
    assert {origin.kind for origin in found.origins.values()} <= set(ORIGINS)
    assert found.spec.train.optim.lr == 0.02  # type: ignore[attr-defined]


def test_lists_are_replaced_and_defaults_are_not_shared() -> None:
    first = train({"train": {"optim": {"milestones": [1]}}}).nested()
    first["train"]["optim"]["scales"]["backbone"]["lr_mult"] = 9
    assert train().nested()["train"]["optim"]["milestones"] == [8, 9]
    assert train().nested()["train"]["optim"]["scales"] == {"backbone": {"lr_mult": 0.2}}


def test_a_file_value_that_equals_the_default_is_no_choice() -> None:
    base = Layer("base-experiment", "b", {"train.num_epochs": 3, "train.level": 2, "model.embed_dims": 64})
    printed = {**default_spec("plain", "train"), "model": {"embed_dims": 32, "head_dims": 256}}

    found = build_spec("plain", "train", [base, Layer("file", "f", printed)], draft=True)

    nested = found.nested()
    assert (nested["train"]["num_epochs"], nested["train"]["level"]) == (3, 2)
    assert (nested["model"]["embed_dims"], nested["model"]["head_dims"]) == (32, 32)
    assert found.origins["train.fast"].kind == "default"
    assert "model.embed_dims: 32 of f is used, base experiment b has 64" in found.notes
    typed = build_spec("plain", "train", [base, Layer("override", "", {"train.num_epochs": 10})], draft=True)
    assert typed.nested()["train"]["num_epochs"] == 10


def test_only_real_equals_of_a_default_are_left_out() -> None:
    flat = {"train.level": True, "train.num_gpus": 1, "train.optim.norm_type": 2, "model.aux.type": None}
    assert chosen("plain", "train", flat) == {"train.level": True, "model.aux.type": None}


def test_a_file_value_that_loses_to_a_dataset_is_noted() -> None:
    found = build_spec(
        "plain",
        "train",
        [
            Layer("file", "spec.yaml", {"dataset": {"root": "/old"}}),
            Layer("dataset", "train", {"dataset.root": "/new"}),
        ],
    )
    assert "dataset.root: '/old' of spec.yaml gives way to '/new' (dataset train)" in found.notes


@pytest.mark.parametrize(
    ("values", "key", "value"),
    [
        ({"results_dir": "/r", "train.checkpoint": "${results_dir}/t/x.pth"}, "checkpoint", "/r/t/x.pth"),
        ({"train": {"num_epochs": "${model.embed_dims}"}}, "num_epochs", 256),
        ({"train": {"num_epochs": "${train.num_gpus}", "num_gpus": "${train.level}"}}, "num_epochs", 1),
        ({"train": {"gpu_ids": ["${train.num_gpus}", 0]}}, "gpu_ids", [1, 0]),
        ({"train": {"checkpoint": "e${train.num_epochs}-${train.fast}"}}, "checkpoint", "e10-true"),
        ({"results_dir": "optim", "train.checkpoint": "${train.${results_dir}.type}"}, "checkpoint", "AdamW"),
        ({"train.num_epochs": "${train.optim.scales.n}", "train.optim.scales": {"n": 7}}, "num_epochs", 7),
        ({"evaluate.checkpoint": "a", "train.checkpoint": "${evaluate.checkpoint}"}, "checkpoint", "a"),
        ({"train": {"checkpoint": "${data.folder}/w"}}, "checkpoint", "/data/w"),
        ({"train.checkpoint": "${evaluate.results_dir}", "evaluate": {"results_dir": "${results_dir}/e"}},
         "checkpoint", "/results/e"),
    ],
)  # fmt: skip
def test_references(values: dict[str, Any], key: str, value: Any) -> None:
    found = train(values).nested()["train"][key]
    assert found == value
    assert type(found) is type(value)


def test_a_section_can_be_referred_to_as_a_whole() -> None:
    found = train({"model": {"anything": "${train.optim}"}, "train": {"optim": {"lr": 0.5, "type": "sgd"}}})
    assert found.nested()["model"]["anything"] == found.nested()["train"]["optim"]
    assert "use a map of settings" in str(fails({"model": {"aux": "${train.optim}"}}))


def test_a_circle_is_printed() -> None:
    error = fails({"train": {"checkpoint": "${results_dir}/a"}, "results_dir": "${train.checkpoint}/b"})
    assert "train.checkpoint -> results_dir -> train.checkpoint" in str(error) or (
        "results_dir -> train.checkpoint -> results_dir" in str(error)
    )
    assert isinstance(problems(error)[0], ConflictError)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("${model.embed_dim}", "did you mean ${model.embed_dims}?"),
        ("${oc.env:HOME}", "is no reference"),
        ("${model.embed_dims", "is not closed"),
        ("a-${model}", "is a map"),
    ],
)
def test_wrong_references(text: str, wanted: str) -> None:
    error = fails({"train": {"checkpoint": text}})
    assert "train.checkpoint" in str(error)
    assert wanted in str(error)


def test_a_text_that_needs_an_unset_value() -> None:
    values = {"model": {"name": "${train.checkpoint}.onnx"}}
    error = fails(values)
    assert isinstance(error, MissingValueError)
    assert "refers to train.checkpoint, which is not set" in str(error)
    draft = train(values, draft=True)
    assert "model.name: waits for train.checkpoint" in draft.notes
    assert draft.nested()["model"]["name"] == "plain"


def test_derived_defaults_follow_and_given_values_stay() -> None:
    assert train({"model": {"embed_dims": 64}}).nested()["model"]["double_dims"] == 128
    given = train({"model": {"embed_dims": 64, "head_dims": 32}})
    assert given.nested()["model"]["head_dims"] == 32
    assert given.nested()["model"]["double_dims"] == 64
    assert given.origins["model.double_dims"].detail == "follows model.head_dims"
    assert (
        train({"model": {"embed_dims": 64, "size": "${model.double_dims}"}}).nested()["model"]["size"] == 128
    )
    error = fails({"model": {"embed_dims": "wide"}})
    assert len(problems(error)) == 1


def test_all_problems_at_once() -> None:
    error = fails(
        {
            "train": {"num_epochs": 0, "precision": "fp64", "optm": {}, "lr": 3, "validation_interval": 3},
            "model": {"size": "big"},
            "learning": 1,
        }
    )
    text = str(error)
    assert isinstance(error, SpecError)
    assert error.exit_code == 3
    keys = {problem.key for problem in problems(error)}
    assert {
        "train.num_epochs",
        "train.precision",
        "train.optm",
        "train.optim.lr",
        "model.size",
        "learning",
    } <= keys
    assert "train.num_epochs (spec.yaml): 0 is not allowed; use an integer of at least 1" in text
    assert "train.precision (spec.yaml): 'fp64' is not allowed; use fp32 or fp16" in text
    assert "did you mean train.optim?" in text
    # The relation needs num_epochs, which is itself wrong.
    assert "train.validation_interval" not in keys


def test_missing_misplaced_and_relations() -> None:
    with pytest.raises(MissingValueError) as caught:
        build_spec("plain", "train", [])
    assert caught.value.key == "dataset.root"
    assert "dataset.root=..." in caught.value.hint
    error = fails({"optim": {"lr": 1}})
    assert isinstance(error, UnknownKeyError)
    assert "misplaced; it belongs to train.optim" in str(error)
    error = fails({"train": {"validation_interval": 11}})
    assert isinstance(error, ConflictError)
    assert str(error) == "train.validation_interval and train.num_epochs: 11 is above 10"
    assert error.hint == "lower train.validation_interval"


def test_names_people_use_lead_to_the_key() -> None:
    with pytest.raises(UnknownKeyError, match=r"did you mean train\.optim\.lr\?"):
        build_spec("mask2former", "train", [Layer("file", "s", {"train": {"optim": {"learning_rte": 1}}})])
    assert "did you mean model.embed_dims?" in str(fails({"model": {"widht": 8}}))


def test_drafts_and_missing_keys() -> None:
    draft = build_spec("plain", "evaluate", [], draft=True)
    assert "evaluate.checkpoint: not set yet" in draft.notes
    assert missing_keys("plain", "evaluate", draft.nested()) == ["evaluate.checkpoint"]
    assert missing_keys("plain", "evaluate", {"evaluate": {"engine": "m.engine"}}) == []
    assert missing_keys("plain", "export", {}) == ["export.checkpoint", "export.inputs", "export.format"]
    with pytest.raises(MissingValueError, match="one of the two is needed"):
        build_spec("plain", "evaluate", [])
    assert build_spec("plain", "evaluate", [Layer("parent", "job", {"evaluate.checkpoint": "a.pth"})])
    with pytest.raises(MissingValueError):
        build_spec("plain", "train", [Layer("file", "s", {"dataset": {"root": ""}})])


def test_three_question_marks_are_not_set() -> None:
    found = train({"train": {"checkpoint": "???", "optim": "???"}, "model": {"nonsense": "???"}})
    assert found.origins["train.checkpoint"].kind == "default"
    with pytest.raises(MissingValueError):
        build_spec("plain", "train", [Layer("file", "s", {"dataset": {"root": "???"}})])


def test_blanks_from_documentation_are_errors() -> None:
    with pytest.raises(InvalidValueError):
        build_spec("plain", "train", [Layer("override", "", {"dataset.root": "<folder>"})])
    error = fails(Layer("override", "", {"train.checkpoint": "<model to be evaluated>"}))
    assert isinstance(error, InvalidValueError)
    assert error.key == "train.checkpoint"
    assert "'<model to be evaluated>' is a blank to fill in" in str(error)


def test_aliases_shorthand_and_conflicts() -> None:
    nested, notes = canonical(
        "plain",
        "train",
        {"data": {"train": {"batch_size": 2}}, "train.lr": 0.1, "model": {"old": {"width": 8}}},
    )
    assert nested == {
        "dataset": {"train": {"batch_size": 2}},
        "train": {"optim": {"lr": 0.1}},
        "model": {"embed_dims": 8},
    }
    assert "data is read as dataset" in notes
    assert "train.lr is read as train.optim.lr" in notes
    assert canonical("plain", "train", {"data.folder": "/x"})[0] == {"dataset": {"root": "/x"}}
    same = {"train": {"lr": 0.1, "optim": {"lr": 0.1}}}
    assert canonical("plain", "train", same)[0] == {"train": {"optim": {"lr": 0.1}}}
    with pytest.raises(ConflictError) as caught:
        canonical("plain", "train", {"train": {"lr": 0.1, "optim": {"lr": 0.2}}})
    assert "train.lr is 0.1 and train.optim.lr is 0.2; both mean train.optim.lr" in str(caught.value)
    assert canonical("mask2former", "train", {"learning_rate": 0.1})[0] == {"train": {"optim": {"lr": 0.1}}}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"train": {"precision": 32}}, {"train": {"precision": "fp32"}}),
        ({"train": {"precision": "FP-16"}}, {"train": {"precision": "fp16"}}),
        ({"train.optim.lr_scheduler": "WarmupPoly"}, {"train": {"optim": {"lr_scheduler": "Warmuppoly"}}}),
        ({"model": {"blocks": ["Conv", "NORM"]}}, {"model": {"blocks": ["conv", "norm"]}}),
        ({"train": {"num_epochs": 5.0}}, {"train": {"num_epochs": 5}}),
        ({"model": {"size": [640.0, 480]}}, {"model": {"size": [640, 480]}}),
        ({"model": {"layers": [{"bits": 4.0}]}}, {"model": {"layers": [{"bits": 4}]}}),
        ({"train.gpu_ids": (0, 1)}, {"train": {"gpu_ids": [0, 1]}}),
        ({"results_dir": Path("a")}, {"results_dir": "a"}),
        ({"train": None, "evaluate": None}, {}),
        ({"evaluate": {"what": "ever"}, "distill": {}}, {}),
        ({"model.embed_dims": 8, "model": {"name": "x"}}, {"model": {"embed_dims": 8, "name": "x"}}),
        ({"train.optim.scales.neck.lr_mult": 3}, {"train": {"optim": {"scales": {"neck": {"lr_mult": 3}}}}}),
        ({"train": {"nonsense": 1}}, {"train": {"nonsense": 1}}),
        ({"model": {"aux": None}}, {"model": {"aux": None}}),
    ],
)  # fmt: skip
def test_canonical(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    found = canonical("plain", "train", given)[0]
    assert found == wanted
    assert json.dumps(found) == json.dumps(wanted)


def test_whole_floats_become_integers_only_where_an_integer_belongs() -> None:
    nested = train({"train": {"num_epochs": 5.0, "optim": {"norm_type": 3.0}}}).nested()
    assert type(nested["train"]["num_epochs"]) is int
    assert type(nested["train"]["optim"]["norm_type"]) is float


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 10**400, "two\nlines", "\ud800", {1: 2}, {1, 2}, b"raw"], ids=repr
)
def test_values_no_file_can_hold(value: Any) -> None:
    with pytest.raises(InvalidValueError) as caught:
        canonical("plain", "train", {"model": {"anything": value}})
    assert caught.value.key == "model.anything"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.num_epochs", True), ("train.fast", 1), ("train.level", True), ("train.extra_convs", 0),
        ("train.num_epochs", 1.5), ("train.optim.lr", "1e-4"), ("train.optim.lr", 0), ("train.gpu_ids", []),
        ("train.gpu_ids", [0, -1]), ("train.gpu_ids", 0), ("model.device", "cuda:x"), ("model.name", ""),
        ("model.embed_dims", 12), ("train", 5), ("model.layers", [{"nme": "x"}]), ("evaluate", 5),
        ("train.optim.weights", {"c": 1}), ("train.optim.weights.a", -1), ("train.checkpoint", 5),
    ],
)  # fmt: skip
def test_wrong_values_name_the_key(key: str, value: Any) -> None:
    error = fails({key: value})
    assert key.rpartition(".")[2] in str(error)
    assert len(problems(error)) == 1
    assert problems(error)[0].hint


def test_hints_can_be_followed() -> None:
    assert fails({"train.optim.lr": "1e-4"}).hint == "write it without quotes: train.optim.lr: 1e-4"
    assert fails({"train.fast": "yes"}).hint == "train.fast=true"
    assert fails({"train.precision": "fp33"}).hint in ("train.precision=fp32", "train.precision=fp16")
    assert fails({"train.gpu_ids": "0,1"}).hint == "train.gpu_ids='[0,1]'"
    assert "train.gpu_ids is a list, which is set as a whole" in str(fails({"train.gpu_ids.0": 1}))
    assert "train.gpu_ids[1]" in str(fails({"train.gpu_ids": [0, "x"]}))
    nested = str(fails({"model.layers": [{"name": "a"}, {"bits": 0}]}))
    assert (
        nested == "model.layers[1].bits (spec.yaml): 0 is not allowed; use an integer of at least 1 or null"
    )
    unknown = str(fails({"model.layers": [{"nme": "a"}]}))
    assert unknown == "model.layers[0].nme (spec.yaml): unknown key; did you mean name?"


def test_secrets_are_not_shown_and_are_taken_literally() -> None:
    hidden = "hunter2-hunter2"
    for value in ([hidden], {hidden: 1}, f"<{hidden}>", f"{hidden}\n"):
        error = fails({"encryption_key": value})
        assert "encryption_key" in str(error)
        assert hidden not in json.dumps(error.to_dict())
    assert train({"encryption_key": "a${b}c"}).nested()["encryption_key"] == "a${b}c"


def test_default_spec_leaves_mandatory_keys_out() -> None:
    spec = default_spec("plain", "train")
    assert "root" not in spec["dataset"]
    assert spec["train"]["num_epochs"] == 10
    spec["train"]["num_epochs"] = 99
    assert default_spec("plain", "train")["train"]["num_epochs"] == 10
    found = build_spec("plain", "train", [Layer("file", "d", default_spec("plain", "train"))], draft=True)
    assert found.nested() == build_spec("plain", "train", [], draft=True).nested()


def test_unknown_network_and_action() -> None:
    with pytest.raises(NotFoundError, match="plain has no action"):
        build_spec("plain", "fly", [])
    with pytest.raises(NotFoundError, match="there is no network"):
        canonical("nowhere", "train", {})


def test_a_spec_written_and_read_again_is_the_same() -> None:
    nested = train({"model": {"name": "a: b # c", "offsets": [[1e-5, 1e20], [-0.0]]}}).nested()
    assert load_yaml(to_yaml(nested), "text") == nested


@pytest.mark.skipif(not DATA.is_dir(), reason="the sample specs (shared/data) are not here")
def test_sample_specs_load_unchanged() -> None:
    files = sorted(DATA.glob("*.yaml"))
    assert len(files) == 7
    for file in files:
        name = file.stem.partition("_")[0]
        found = build_spec(name, "train", [Layer("file", file.name, read_spec(file))], draft=True)
        assert found.origins["train.num_epochs"].kind == "file"
        assert not [note for note in found.notes if "waits" in note]


def test_speed_of_the_largest_network() -> None:
    largest = max(networks(), key=lambda network: len(default_spec(network.name, "train").__repr__()))
    values = default_spec(largest.name, "train")
    build_spec(largest.name, "train", [Layer("file", "d", values)], draft=True)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        build_spec(largest.name, "train", [Layer("file", "d", values)], draft=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02
