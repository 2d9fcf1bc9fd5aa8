from __future__ import annotations

import json

import pytest
from shapes_data import mask2former_spec

from skillbank.errors import ConflictError
from skillbank_models.data.categories import Categories, Category
from skillbank_models.mask2former.graph_facts import check_agrees, graph_metadata

CLASSES = Categories((Category(3, "ball", (1, 2, 3), True), None, Category(9, "sky", (4, 5, 6), False)))
SPEC = mask2former_spec({}, num_classes=3)


def test_a_file_says_all_that_running_it_needs():
    found = graph_metadata(SPEC, CLASSES, size=(64, 96))
    assert found["mode"] == "panoptic"
    assert found["skillbank_version"]
    assert json.loads(found["input_size"]) == [64, 96]
    assert json.loads(found["classes"]) == [
        {"index": 0, "id": 3, "name": "ball", "isthing": 1, "color": [1, 2, 3]},
        {"index": 2, "id": 9, "name": "sky", "isthing": 0, "color": [4, 5, 6]},
    ]
    assert json.loads(found["object_mask_threshold"]) == SPEC.model.object_mask_threshold
    assert all(isinstance(value, str) for value in found.values())


def test_mean_and_deviation_are_given_for_pixels_from_0_to_1():
    bytes_ = mask2former_spec({"pixel_mean": [127.5, 0, 255], "pixel_std": [51, 255, 25.5]}, num_classes=3)
    found = graph_metadata(bytes_, CLASSES, size=(64, 96))
    assert json.loads(found["pixel_mean"]) == [0.5, 0.0, 1.0]
    assert json.loads(found["pixel_std"]) == [0.2, 1.0, 0.1]
    unit = mask2former_spec({"pixel_mean": [0.5, 0, 1], "pixel_std": [0.2, 1, 0.1]}, num_classes=3)
    check_agrees(found, unit, "x.onnx")


def test_every_setting_that_is_in_the_graph_and_differs_is_listed():
    found = graph_metadata(SPEC, CLASSES, size=(64, 96))
    other = mask2former_spec({"pixel_mean": [0.1, 0.1, 0.1]}, mode="semantic", num_classes=5)
    with pytest.raises(ConflictError) as caught:
        check_agrees(found, other, "x.onnx")
    said = str(caught.value)
    assert "model.mode: x.onnx was exported with panoptic, the spec says semantic" in said
    assert "model.sem_seg_head.num_classes: x.onnx was exported with 3, the spec says 5" in said
    assert "dataset.pixel_mean: x.onnx was exported with [0.485, 0.456, 0.406]" in said
    assert len(caught.value.problems) == 3
    assert "'model.mode=panoptic'" in said


def test_thresholds_are_applied_outside_and_files_of_others_say_nothing():
    found = graph_metadata(SPEC, CLASSES, size=(64, 96))
    changed = SPEC.model_copy(update={"model": SPEC.model.model_copy(update={"overlap_threshold": 0.1})})
    check_agrees(found, changed, "x.onnx")
    check_agrees({}, SPEC, "x.onnx")
    with pytest.raises(ConflictError, match="holds the network oneformer, not mask2former"):
        check_agrees({"network": "oneformer"}, SPEC, "x.onnx")
