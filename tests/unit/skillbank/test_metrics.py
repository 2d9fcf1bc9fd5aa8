import pytest

from skillbank.errors import NotFoundError
from skillbank.metrics import find_metric, is_better, lookup, primary_metric
from skillbank.specs import network, networks
from skillbank.specs.load import default_spec


@pytest.mark.parametrize("name", [found.name for found in networks()])
def test_every_network_has_one_main_metric_for_its_default_training(name: str) -> None:
    metric = primary_metric(network(name), default_spec(name, "train"))
    assert metric is not None
    assert metric.direction in ("max", "min")


def test_the_main_metric_depends_on_the_stage() -> None:
    found = network("nvpanoptix3d")
    names = {
        primary.name
        for stage in (True, False)
        if (primary := primary_metric(found, {"dataset": {"enable_3d": stage}})) is not None
    }
    assert len(names) == 2


def test_a_metric_is_found_in_any_spelling_and_a_slip_names_the_nearest() -> None:
    found = network("mask2former")
    assert find_metric(found, "miou").name == "mIoU"
    with pytest.raises(NotFoundError, match="reports no metric 'mIo'; it reports") as caught:
        find_metric(found, "mIo")
    assert caught.value.hint == "did you mean mIoU?"
    assert "mIoU" in (caught.value.allowed or [])


def test_values_are_looked_up_by_any_spelling() -> None:
    metric = find_metric(network("mask2former"), "mIoU")
    assert lookup({"other": 1.0, "miou": 0.5}, metric) == 0.5
    assert lookup({"other": 1.0}, metric) is None


def test_better_follows_the_direction() -> None:
    assert is_better(0.1, None, "max")
    assert is_better(0.2, 0.1, "max")
    assert not is_better(0.1, 0.1, "max")
    assert is_better(0.1, 0.2, "min")
