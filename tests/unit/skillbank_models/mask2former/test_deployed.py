from __future__ import annotations

import pytest
import torch
from shapes_data import mask2former_spec

from skillbank.errors import ShapeError
from skillbank_models.data.batch import SegmentationBatch
from skillbank_models.data.categories import Categories, Category
from skillbank_models.deploy.model_io import ModelInput
from skillbank_models.mask2former.deployed import DeployedSegmenter, fit_images, thing_flags

CLASSES = Categories((Category(1, "ball", (1, 2, 3), True), Category(2, "sky", (4, 5, 6), False)))


def test_images_keep_their_scale_where_they_fit():
    images = torch.zeros(2, 3, 64, 64)
    images[0, :, :40, :64] = 1.0
    images[1, :, :64, :20] = 2.0
    found, contents = fit_images(images, [(40, 64), (64, 20)], (96, 128))
    assert found.shape == (2, 3, 96, 128)
    assert contents == [(40, 64), (64, 20)]
    assert (found[0, :, :40, :64] == 1).all()
    assert found[0].sum() == 3 * 40 * 64
    assert found[1].sum() == 2 * 3 * 64 * 20


def test_an_image_that_is_too_large_shrinks_with_its_proportions():
    images = torch.ones(1, 3, 128, 192)
    found, contents = fit_images(images, [(100, 192)], (64, 96))
    assert contents == [(50, 96)]
    torch.testing.assert_close(found[0, :, :50, :96], torch.ones(3, 50, 96))
    assert not found[0, :, 50:].any()


def test_an_open_or_equal_size_changes_nothing():
    images = torch.zeros(1, 3, 64, 96)
    for size in (None, (64, 96)):
        found, contents = fit_images(images, [(60, 90)], size)
        assert found is images
        assert contents == [(60, 90)]


def test_indices_without_a_class_count_as_things():
    assert thing_flags(CLASSES, 3).tolist() == [True, False, True]


class Model:
    """A file that gives what it was told."""

    def __init__(self, outputs, shape=(None, 3, 64, 64), metadata=None):
        self.given = outputs
        self.inputs = {"inputs": ModelInput.read("inputs", shape, torch.float32)}
        self.outputs = list(outputs)
        self.metadata = metadata or {}
        self.batch_size = None
        self.input_size = self.inputs["inputs"].size

    def __call__(self, images):
        return dict(self.given)


def _batch():
    return SegmentationBatch(torch.zeros(1, 3, 32, 64), [], [(32, 64)], [(32, 64)], ["a.png"], ["a.png"], [])


def test_queries_that_are_rather_no_object_take_no_part():
    """The second query scores above the threshold, but no-object is likelier still."""
    masks = torch.zeros(1, 2, 64, 64)
    masks[0, 0, :16], masks[0, 1, 16:32] = 0.9, 0.9
    scores, labels = torch.tensor([[0.8, 0.45]]), torch.tensor([[0, 1]])
    named = {"prob_masks": masks * scores[..., None, None], "pred_masks": masks, "pred_scores": scores}
    outputs = {**named, "pred_classes": labels}
    spec = mask2former_spec({}, num_classes=2)
    official = {
        "class_probs": torch.tensor([[[0.8, 0.1, 0.1], [0.05, 0.45, 0.5]]]),
        "mask_logits": torch.full((1, 2, 16, 16), -3.0),
    }
    for extra, count in (({}, 2), (official, 1)):
        segmenter = DeployedSegmenter(
            Model({**outputs, **extra}), spec=spec, categories=CLASSES, where="x.onnx"
        )
        (result,) = segmenter(_batch())
        assert len(result.panoptic.segments) == count
        assert result.panoptic.segment_map.shape == (32, 64)


def test_the_class_map_comes_from_all_classes_of_all_queries():
    masks = torch.zeros(1, 2, 64, 64)
    outputs = {
        "pred_masks": masks,
        "pred_scores": torch.tensor([[0.1, 0.1]]),
        "pred_classes": torch.tensor([[0, 0]]),
        "class_probs": torch.tensor([[[0.2, 0.7, 0.1], [0.3, 0.6, 0.1]]]),
        "mask_logits": torch.full((1, 2, 16, 16), 3.0),
    }
    spec = mask2former_spec({}, mode="instance", num_classes=2)
    (result,) = DeployedSegmenter(Model(outputs), spec=spec, categories=CLASSES, where="x.onnx")(_batch())
    assert (result.class_map == 1).all()
    assert len(result.instances.labels) == 0


def test_a_file_of_another_mode_is_refused_by_its_outputs():
    spec = mask2former_spec({}, num_classes=2)
    with pytest.raises(
        ShapeError, match="mode panoptic takes one batch of images and gives prob_masks"
    ) as caught:
        DeployedSegmenter(Model({"pred_masks": None}), spec=spec, categories=CLASSES, where="x.onnx")
    assert caught.value.hint == "export again with model.mode=panoptic"
