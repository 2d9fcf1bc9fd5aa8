import pytest

from skillbank.errors import InvalidValueError
from skillbank.resolve.devices import DeviceKeys, Devices, check_fit, device_keys, reconcile
from skillbank.skill_info import SkillInfo

KEYS = DeviceKeys(gpus="train.num_gpus", ids="train.gpu_ids", nodes="train.num_nodes")


def two_gpus(**changes: object) -> Devices:
    return Devices(**{"gpus": 2, "ids": (0, 1), **changes})


@pytest.mark.parametrize(
    ("count", "ids", "expected", "is_noted"),
    [
        (1, [0], (1, (0,)), False),
        (None, None, (1, (0,)), False),
        (1, [], (1, (0,)), False),
        (1, [0, 1], (2, (0, 1)), True),
        (1, [2], (1, (2,)), False),
        (4, [0], (4, (0, 1, 2, 3)), False),  # [0] is the default: nobody asked for it
        (3, [2, 5], (3, (2, 5, 0)), True),
        (None, [1, 3], (2, (1, 3)), False),
        (2, [1, 1], (2, (1, 0)), True),
    ],
)
def test_the_larger_setting_wins(
    count: int | None, ids: list[int] | None, expected: tuple[int, tuple[int, ...]], is_noted: bool
) -> None:
    gpus, chosen, note = reconcile(count, ids)

    assert (gpus, chosen) == expected
    assert bool(note) == is_noted


def test_the_note_names_both_settings() -> None:
    _, _, note = reconcile(1, [0, 1])

    assert "num_gpus 1" in note
    assert "[0, 1]" in note


def test_one_gpu_without_any_means_the_processor() -> None:
    fitted = check_fit(Devices(gpus=1, ids=(0,)), {"nodes": 1, "gpus_per_node": 0}, KEYS)

    assert (fitted.gpus, fitted.ids) == (0, ())


def test_more_than_there_is_lists_both_problems() -> None:
    with pytest.raises(InvalidValueError) as caught:
        check_fit(two_gpus(nodes=2), {"nodes": 1, "gpus_per_node": 1}, KEYS)

    assert "train.num_nodes: 2 is more than local has, which is 1 node" in caught.value.message
    assert "train.num_gpus: 2 is more than local has, which is 1 GPU" in caught.value.message


def test_two_gpus_on_a_machine_without_any_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="0 GPUs") as caught:
        check_fit(two_gpus(), {"nodes": 1, "gpus_per_node": 0}, KEYS)

    assert caught.value.key == "train.num_gpus"
    assert caught.value.hint == "train.num_gpus=1"


def test_an_index_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="no GPU 3; use 0 to 1"):
        check_fit(Devices(gpus=1, ids=(3,)), {"nodes": 1, "gpus_per_node": 2}, KEYS)


@pytest.mark.parametrize(
    ("have", "expected"), [(0, (0, ())), (1, (1, (0,))), (2, (2, (0, 1))), (8, (8, tuple(range(8))))]
)
def test_a_default_is_lowered_to_what_there_is(have: int, expected: tuple[int, tuple[int, ...]]) -> None:
    wanted = Devices(gpus=8, ids=tuple(range(8)))

    fitted = check_fit(wanted, {"nodes": 1, "gpus_per_node": have}, KEYS, is_default=True)

    assert (fitted.gpus, fitted.ids) == expected
    assert bool(fitted.notes) == (have < 8)


def test_keys_follow_the_action() -> None:
    info = SkillInfo(name="x", type="model", description="x", gpu_spec_key="train.num_gpus")

    assert device_keys(info, "evaluate") == DeviceKeys(
        gpus="evaluate.num_gpus", ids="evaluate.gpu_ids", nodes="evaluate.num_nodes"
    )
