from __future__ import annotations

import numpy as np
import pytest

from skillbank.errors import BackendError
from skillbank_models.deploy.comparison import Tolerance, differences, require_equal

PLAIN = Tolerance(absolute=1e-3, share=0.01)
KEYED = Tolerance(
    absolute=1e-3,
    share=0.0,
    ranked=("pred_masks", "pred_scores", "pred_classes", "pred_queries"),
    row_keys=("pred_queries", "pred_classes"),
)


def test_a_difference_is_measured_and_counted():
    wanted = {"a": np.zeros((2, 100), np.float32)}
    found = {"a": wanted["a"].copy()}
    found["a"][0, :3] = 0.5
    (item,) = differences(wanted, found, PLAIN)
    assert item.largest == 0.5
    assert item.beyond == pytest.approx(3 / 200)


@pytest.mark.parametrize("bad", [np.zeros((2, 4)), np.full((2, 3), np.nan)])
def test_another_shape_or_a_nan_counts_as_wholly_different(bad):
    (item,) = differences({"a": np.zeros((2, 3))}, {"a": bad}, PLAIN)
    assert item.largest == float("inf")
    assert item.beyond == 1.0


def test_a_nan_on_both_sides_is_equal():
    both = {"a": np.array([[np.nan, 1.0]])}
    (item,) = differences(both, both, PLAIN)
    assert (item.largest, item.beyond) == (0.0, 0.0)


def _ranked(order):
    queries, classes = np.array([[3, 1, 2]]), np.array([[0, 0, 5]])
    scores, masks = np.array([[0.9, 0.5, 0.5]]), np.arange(3.0).reshape(1, 3, 1, 1)
    return {
        "pred_queries": queries[:, order],
        "pred_classes": classes[:, order],
        "pred_scores": scores[:, order],
        "pred_masks": masks[:, order],
    }


def test_rows_of_equal_score_may_be_sorted_otherwise():
    found = differences(_ranked([0, 1, 2]), _ranked([0, 2, 1]), KEYED)
    assert {item.output: item.largest for item in found} == dict.fromkeys(_ranked([0, 1, 2]), 0.0)
    unkeyed = differences(_ranked([0, 1, 2]), _ranked([0, 2, 1]), Tolerance(absolute=1e-3, share=0.0))
    assert max(item.largest for item in unkeyed) > 0


def test_a_row_that_only_one_side_has_is_a_difference():
    other = _ranked([0, 1, 2])
    other["pred_queries"] = np.array([[3, 1, 7]])
    found = {item.output: item.largest for item in differences(_ranked([0, 1, 2]), other, KEYED)}
    assert found["pred_queries"] == 5


def test_the_verdict_names_what_is_off_and_what_is_allowed():
    report = {
        "equal": False,
        "tolerance": {"max_abs_diff": 1e-3, "share_of_elements_beyond": 0.01},
        "max_abs_diff": {"a": 0.25, "b": 0.0},
        "samples": [{"share_beyond_tolerance": {"a": 0.5, "b": 0.0}}],
    }
    with pytest.raises(
        BackendError, match=r"differ in a by up to 0\.25 \(50\.00% of its elements too far\)"
    ) as caught:
        require_equal(report, "x.onnx")
    assert "1.00% of the elements may differ by more than 0.001" in str(caught.value)
    assert " b " not in str(caught.value)
    require_equal({**report, "equal": True}, "x.onnx")
