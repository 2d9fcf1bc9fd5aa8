"""What is searched, and within which bounds."""

import pytest

from skillbank.automl.settings import Settings, read_settings
from skillbank.automl.space import Choices, Override, Range, default_keys, search_space
from skillbank.errors import InvalidValueError, SpecError, UnknownKeyError

BASE = {"train": {"optim": {"lr": 2e-4, "weight_decay": 0.05, "type": "AdamW"}, "num_epochs": 10},
        "model": {"mask_former": {"hidden_dim": 256}}}  # fmt: skip


def test_learning_rate_is_two_decades_on_a_log_scale() -> None:
    (axis,) = search_space("mask2former", BASE, keys=["train.optim.lr"])
    assert isinstance(axis.domain, Range)
    assert axis.domain.log
    assert axis.domain.low == pytest.approx(2e-5)
    assert axis.domain.high == pytest.approx(2e-3)
    assert axis.default == 2e-4


def test_defaults_leave_out_what_changes_the_measurement_or_the_architecture() -> None:
    leaves = {key.rsplit(".", 1)[-1] for key in default_keys("mask2former")}
    assert "lr" in leaves
    assert not leaves & {"test_min_size", "test_max_size", "hidden_dim", "num_object_queries", "dec_layers"}


def test_an_integer_keeps_its_multiple() -> None:
    (axis,) = search_space("mask2former", BASE, keys=["model.mask_former.hidden_dim"])
    assert isinstance(axis.domain, Range)
    assert axis.domain.integer
    assert axis.domain.step == 8
    assert axis.domain.low % 8 == 0
    assert axis.domain.high % 8 == 0


def test_a_bound_on_one_side_leaves_a_range_around_the_default() -> None:
    (axis,) = search_space("mask2former", {"dataset": {"augmentation": {"train_max_size": 2560}}},
                           keys=["dataset.augmentation.train_max_size"])  # fmt: skip
    assert axis.domain == Range(low=1280, high=5120, integer=True, step=1)


def test_an_excluded_bound_is_never_drawn() -> None:
    (axis,) = search_space(
        "mask2former", {"train": {"optim": {"momentum": 0.9}}}, keys=["train.optim.momentum"]
    )
    assert isinstance(axis.domain, Range)
    assert 0 < axis.domain.low < 0.01
    assert axis.domain.high == 1


def test_options_and_own_bounds() -> None:
    optim, rate = search_space(
        "mask2former", BASE, keys=["train.optim.type", "train.optim.lr"],
        overrides={"train.optim.lr": Override(low=1e-4, high=4e-4)},
    )  # fmt: skip
    assert optim.domain == Choices(("AdamW", "SGD"))
    assert rate.domain == Range(low=1e-4, high=4e-4, log=True)


def test_all_problems_at_once_with_the_nearest_key() -> None:
    with pytest.raises(SpecError) as caught:
        search_space(
            "mask2former",
            BASE,
            keys=["train.optim.lrr"],
            overrides={"train.optim.lr": Override(low=1.0, high=0.1)},
        )
    message = str(caught.value)
    assert "2 problems" in message
    assert "did you mean train.optim.lr?" in message
    assert "nothing to search between 1 and 0.1" in message


def test_settings_of_the_service_are_mapped() -> None:
    settings = read_settings(
        {
            "automl_enabled": True,
            "automl_algorithm": "h",
            "automl_max_recommendations": 7,
            "automl_reduction_factor": 4,
        }
    )
    assert settings == Settings(algorithm="hyperband", trials=7, reduction_factor=4)


@pytest.mark.parametrize(
    ("raw", "error", "text"),
    [
        ({"trails": 3}, UnknownKeyError, "did you mean trials?"),
        ({"trials": 0}, InvalidValueError, "trials: 0 is not allowed; use a whole number from 1"),
        ({"algorithm": "magic"}, InvalidValueError, "use one of bayesian"),
        ({"reduction_factor": 3}, InvalidValueError, "bayesian does not use it"),
        ({"ranges": {"train.optim.lr": {"lowest": 1}}}, InvalidValueError, "ranges"),
        ({"keys": "train.optim.lr"}, InvalidValueError, "use a list of dotted keys"),
    ],
)
def test_wrong_settings(raw: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        read_settings(raw)
    shown = f"{caught.value} {getattr(caught.value, 'hint', '')}"
    assert text in shown


def test_values_that_the_spec_would_refuse_are_not_searched() -> None:
    with pytest.raises(SpecError) as caught:
        search_space(
            "mask2former", {"train": {"optim": {"lr": 2e-4, "weight_decay": 1e-4}}}, keys=["train.optim.lr"],
            overrides={
                "train.optim.lr": Override(low=-1.0, high=0.1),
                "train.optim.weight_decay": Override(choices=(0.1, "much")),
            },
        )  # fmt: skip
    assert [problem.key for problem in caught.value.problems] == [
        "train.optim.lr",
        "train.optim.weight_decay",
    ]
    assert "train.optim.lr: -1.0 cannot be tried; use a number above 0 and at most 1" in caught.value.message
    assert "'much'" in caught.value.message


@pytest.mark.parametrize("raw", ["algorithm", 3, [1]])
def test_settings_are_a_map(raw: object) -> None:
    with pytest.raises(InvalidValueError, match="automl_settings"):
        read_settings(raw)  # type: ignore[arg-type]


@pytest.mark.parametrize("keys", [None, 3, "train.optim.lr", [1]])
def test_keys_are_a_list_of_texts(keys: object) -> None:
    with pytest.raises(InvalidValueError, match="use a list of dotted keys"):
        read_settings({"keys": keys})


@pytest.mark.parametrize("key", ["wandb.enable", "results_dir", "model_name"])
def test_names_and_places_are_never_searched(key: str) -> None:
    with pytest.raises(InvalidValueError, match="not a hyper-parameter") as caught:
        search_space("mask2former", BASE, keys=[key], overrides={key: Override(choices=("a", "b"))})
    assert "--automl" in caught.value.hint
