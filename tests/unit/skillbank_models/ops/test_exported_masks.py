"""Outputs of an exported graph lead to the results of the logits they come from."""

import pytest
import torch

from skillbank.errors import ShapeError
from skillbank_models.data.batch import IGNORE
from skillbank_models.ops.exported_masks import (
    instances_from_masks,
    panoptic_from_probabilities,
    segment_exported,
    semantic_from_scores,
)
from skillbank_models.ops.postprocess import instances, panoptic, semantic_map, semantic_scores

SIZE = (12, 16)
IS_THING = torch.tensor([True, False, True])
RULE = {"is_thing": IS_THING, "object_mask_threshold": 0.3, "overlap_threshold": 0.5}
WHOLE = {"content": SIZE, "original": SIZE}


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    small = torch.randn(9, 3, 4, generator=generator) * 5
    masks = torch.nn.functional.interpolate(small[None], SIZE, mode="bicubic", align_corners=False)[0]
    return torch.randn(9, 4, generator=generator) * 2, masks


def exported(class_logits, masks):
    scores, labels = class_logits.softmax(-1).max(-1)
    probabilities = masks.sigmoid()
    return {
        "prob_masks": scores[:, None, None] * probabilities, "pred_masks": probabilities,
        "pred_scores": scores, "pred_classes": labels,
    }  # fmt: skip


def test_semantic(logits):
    scores = semantic_scores(*logits)
    assert torch.equal(semantic_from_scores(scores, **WHOLE), semantic_map(*logits))
    cut = semantic_from_scores(scores, content=(8, 10), original=(8, 10))
    assert torch.equal(cut, semantic_map(*logits)[:8, :10])
    assert semantic_from_scores(scores, content=SIZE, original=(30, 40)).shape == (30, 40)


def test_semantic_with_one_class_and_with_many():
    one = semantic_from_scores(torch.tensor([[[0.4, 0.6]]]), content=(1, 2), original=(1, 2))
    assert one.tolist() == [[IGNORE, 0]]
    many = torch.rand(40, 3, 3)
    found = semantic_from_scores(many, content=(3, 3), original=(3, 3))
    assert torch.equal(found, many.argmax(0))


def test_panoptic_is_the_same_rule(logits):
    outputs = exported(*logits)
    found = panoptic_from_probabilities(
        outputs["pred_masks"], outputs["pred_scores"], outputs["pred_classes"], **WHOLE, **RULE
    )
    expected = panoptic(*logits, **RULE)
    assert expected.segments
    assert torch.equal(found.segment_map, expected.segment_map)
    assert found.segments == expected.segments


def test_no_object_as_a_mask_of_queries(logits):
    class_logits, masks = logits
    scores, labels = class_logits.softmax(-1)[:, :-1].max(-1)
    keep = class_logits.argmax(-1) != 3
    assert not keep.all()
    found = panoptic_from_probabilities(masks.sigmoid(), scores, labels, keep=keep, **WHOLE, **RULE)
    assert torch.equal(found.segment_map, panoptic(*logits, **RULE).segment_map)


def test_instances(logits):
    direct = instances(*logits, topk=8)
    shuffled = torch.randperm(len(direct.labels), generator=torch.Generator().manual_seed(1))
    found = instances_from_masks(
        direct.masks[shuffled].float(), direct.scores[shuffled], direct.labels[shuffled], **WHOLE
    )
    assert torch.equal(found.scores, direct.scores)
    assert torch.equal(found.masks, direct.masks)
    only = instances_from_masks(direct.masks.float(), direct.scores, direct.labels, keep=IS_THING, **WHOLE)
    assert len(only.labels) < len(found.labels)
    assert IS_THING[only.labels].all()


def test_one_entry_for_all_modes(logits):
    outputs = exported(*logits)
    result = segment_exported(outputs, mode="panoptic", **WHOLE, **RULE)
    assert result.panoptic.segments == panoptic(*logits, **RULE).segments
    assert result.class_map.dtype == torch.int32
    in_segments = result.panoptic.segment_map > 0
    labels = torch.tensor([-1, *(segment.label for segment in result.panoptic.segments)])
    agree = result.class_map[in_segments] == labels[result.panoptic.segment_map.long()][in_segments]
    assert agree.float().mean() > 0.8

    scores = {"pred_masks": semantic_scores(*logits)}
    assert torch.equal(
        segment_exported(scores, mode="semantic", **WHOLE, **RULE).class_map, semantic_map(*logits).int()
    )

    direct = instances(*logits, topk=8)
    parts = {
        "pred_masks": direct.masks.float(), "pred_scores": direct.scores, "pred_classes": direct.labels,
    }  # fmt: skip
    result = segment_exported(parts, mode="instance", things_only=False, **WHOLE, **RULE)
    assert torch.equal(result.instances.masks, direct.masks)
    assert (result.class_map[direct.masks[0]] == direct.labels[0]).all()
    assert (result.class_map[~direct.masks.any(0)] == IGNORE).all()


def test_a_graph_of_another_mode_is_refused(logits):
    with pytest.raises(
        ShapeError, match="pred_scores, pred_classes missing for mode instance; it gives pred_masks"
    ):
        segment_exported({"pred_masks": torch.zeros(1, 2, 2)}, mode="instance", **WHOLE, **RULE)
