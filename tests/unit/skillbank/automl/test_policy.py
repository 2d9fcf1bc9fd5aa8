from pathlib import Path

import pytest
from job_bench import join_network

from skillbank.automl.policy import POLICIES, decide, find_off_phrase, route
from skillbank.errors import UsageError

GOOD: list[str] = []
LACKING = ["schemas/train.schema.json"]


def packaged(skill: Path) -> None:
    """The two files AutoML asks for."""
    (skill / "schemas").mkdir()
    (skill / "schemas" / "train.schema.json").write_text("{}")
    (skill / "references" / "spec_template_train.yaml").write_text("train: {}")


@pytest.mark.parametrize(
    ("policy", "enabled", "missing", "way", "has_notice"),
    [
        ("off", True, GOOD, "direct", False),
        ("off", True, LACKING, "direct", False),
        ("off", False, GOOD, "direct", False),
        ("auto", True, GOOD, "automl", False),
        ("auto", True, LACKING, "direct", True),
        ("auto", False, GOOD, "direct", False),
        ("on", True, GOOD, "automl", False),
    ],
)
def test_truth_table(policy: str, enabled: bool, missing: list[str], way: str, has_notice: bool) -> None:
    found, reason, notice = route("mask2former", policy, enabled=enabled, missing=missing)

    assert found == way
    assert reason
    assert bool(notice) == has_notice


def test_the_notice_says_that_schemas_have_to_be_generated() -> None:
    _, _, notice = route("mask2former", "auto", enabled=True, missing=LACKING)

    assert "AutoML is enabled for mask2former but not runnable until schemas are generated" in notice
    assert LACKING[0] in notice


@pytest.mark.parametrize(
    ("enabled", "missing", "word"), [(False, GOOD, "not enabled"), (True, LACKING, LACKING[0])]
)
def test_on_is_refused_where_automl_cannot_run(enabled: bool, missing: list[str], word: str) -> None:
    with pytest.raises(UsageError) as caught:
        route("mask2former", "on", enabled=enabled, missing=missing)

    assert word in caught.value.message
    assert caught.value.value == "on"
    assert caught.value.hint


@pytest.mark.parametrize("policy", [None, "auto", "on", "off"])
@pytest.mark.parametrize("action", ["evaluate", "inference", "export"])
def test_only_train_goes_through_automl(action: str, policy: str | None) -> None:
    decision = decide("mask2former", action, policy=policy, text=None)

    assert decision.route == "direct"
    assert action in decision.reason


def test_the_model_flag_and_the_packaged_files_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join_network(monkeypatch, tmp_path, "mask2former", info={"automl_enabled": True})

    assert decide("mask2former", "train", policy=None, text=None).route == "direct"
    with pytest.raises(UsageError, match=r"spec_template_train\.yaml"):
        decide("mask2former", "train", policy="on", text=None)

    packaged(tmp_path / "skill")
    decision = decide("mask2former", "train", policy=None, text="please tune it")
    assert (decision.policy, decision.source, decision.route) == ("auto", "default", "automl")

    (tmp_path / "skill" / "schemas" / "train.schema.json").write_text("{broken")
    assert decide("mask2former", "train", policy=None, text=None).notice


def test_a_network_without_automl_trains_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    join_network(monkeypatch, tmp_path, "mask2former", info={"automl_enabled": False})
    packaged(tmp_path / "skill")

    decision = decide("mask2former", "train", policy=None, text=None)

    assert (decision.route, decision.notice) == ("direct", "")


def test_a_phrase_turns_automl_off_for_the_run() -> None:
    decision = decide("mask2former", "train", policy=None, text="Train it, but turn off  AutoML please.")

    assert (decision.policy, decision.source, decision.route) == ("off", "text", "direct")
    assert decision.matched_text == "turn off AutoML"
    assert decision.to_dict()["matched_text"] == "turn off AutoML"


def test_an_explicit_policy_beats_a_phrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    join_network(monkeypatch, tmp_path, "mask2former", info={"automl_enabled": True})
    packaged(tmp_path / "skill")

    decision = decide("mask2former", "train", policy="AUTO", text="no HPO")

    assert (decision.policy, decision.source, decision.matched_text) == ("auto", "explicit", "")
    assert decision.route == "automl"


def test_a_yaml_boolean_is_a_policy() -> None:
    assert decide("mask2former", "train", policy=False, text=None).policy == "off"


def test_an_unknown_policy_names_the_allowed_ones() -> None:
    with pytest.raises(UsageError, match="auto, on or off") as caught:
        decide("mask2former", "train", policy="maybe", text=None)

    assert caught.value.allowed == list(POLICIES)


@pytest.mark.parametrize(
    "text",
    [
        "turn off AutoML",
        "Please disable AutoML",
        "no HPO",
        "plain training",
        "PLAIN TRAINING only",
        "train without automl",
        "skip hyper-parameter search",
        "skip the hyperparameter tuning",
        "turn AutoML off",
        "switch off the hpo for now",
        "with AutoML turned off",
        "AutoML is disabled",
        "AutoML: off",
        "automl_policy: off",
        "don't use AutoML",
        "I do not want AutoML",
        "we need no hyper parameter sweep",
        "don't worry, disable AutoML",
        "don't forget to turn off AutoML",
        "Do not disable AutoML in general. This one is plain training.",
        "Train Mask2Former once with lr 1e-4, no tuning.",
        "no tuning",
        "without tuning",
        "without any tuning, please",
        "do not tune",
        "don't tune anything",
        "don\N{RIGHT SINGLE QUOTATION MARK}t tune it",
        "do not tune the hyper-parameters",
        "no sweep",
        "no sweeps",
        "skip tuning",
        "skip the sweep",
        "no search",
        "no hyperparameter search",
        "no grid search",
        "do not search",
        "without a search",
        "no trials",
        "no need for tuning",
        "a single run",
        "just a single run",
        "single training run",
        "just one run",
        "one plain run",
        "train once",
        "train it once",
        "train it only once.",
    ],
)
def test_words_that_turn_automl_off(text: str) -> None:
    assert find_off_phrase(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "train a model",
        "use AutoML",
        "turn on AutoML",
        "do not disable AutoML",
        "don't turn off AutoML",
        "don\N{RIGHT SINGLE QUOTATION MARK}t turn off AutoML",
        "please do not ever turn AutoML off",
        "no need to disable AutoML",
        "there is no reason to turn off AutoML",
        "it is not necessary to skip hyper-parameter search",
        "never skip HPO",
        "without disabling AutoML",
        "AutoML must not be turned off",
        "I don't need AutoML turned off",
        "do not train without AutoML",
        "I do not want you to disable AutoML",
        "not plain training",
        "search instead of plain training",
        "complain training",
        "turn off the lights, then use AutoML",
        "not a single run but a search",
        "not just one run, search",
        "more than a single run",
        "do not skip tuning",
        "don't skip the sweep",
        "do not train without tuning",
        "never train without a search",
        "do not train it once, search",
        "log every single run",
        "train it once the data is there",
        "train without fine-tuning the backbone",
        "do not fine-tune",
        "fine-tuning is off",
        "do not tune the backbone",
        "do not search for the data, use this folder",
        "no search space was given, take the usual one",
        "tune it",
        "run a sweep over lr",
    ],
)
def test_words_that_do_not(text: str) -> None:
    assert find_off_phrase(text) == ""
