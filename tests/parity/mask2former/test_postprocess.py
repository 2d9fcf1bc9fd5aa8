"""Post-processing against Hugging Face's Mask2Former processor, where the two definitions agree.

What Hugging Face does otherwise: masks are resized to 384 x 384 first (so these tests use masks of that
size); semantic scores are resized, not logits; the area a segment is compared with counts pixels whose mask
probability times class score reaches one half; its share must exceed the threshold; a segment is all pixels
that its query wins, also those outside its mask; after a fused segment numbering goes on from its id, so that
two segments can share one (here fused stuff comes last); instances keep a threshold on the final score.
"""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import Mask2FormerImageProcessor

from skillbank_models.ops.postprocess import instances, panoptic, semantic_map

SIDE, QUERIES, CLASSES = 384, 12, 6
IS_THING = torch.tensor([True, True, False, True, False, False])


@pytest.fixture(scope="module")
def processor():
    return Mask2FormerImageProcessor()


def outputs(seed, *, sure=False, apart=False):
    """Logits; `sure` makes class scores practically 1, `apart` gives every query a block of its own."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randn(QUERIES, 5, 5, generator=generator) * 5
    if apart:
        small = torch.full((QUERIES, 4, 4), -9.0)
        small.view(QUERIES, 16)[torch.arange(QUERIES), torch.randperm(16, generator=generator)[:QUERIES]] = 9
    mode = "nearest" if apart else "bicubic"
    masks = F.interpolate(small[None], (SIDE, SIDE), mode=mode)[0]
    classes = torch.randn(QUERIES, CLASSES + 1, generator=generator) * 2
    if sure:
        labels = [*IS_THING.nonzero()[:, 0].tolist(), CLASSES]
        chosen = [labels[place % 4] for place in torch.randperm(QUERIES - 3, generator=generator)] + [2] * 3
        classes = F.one_hot(torch.tensor(chosen), CLASSES + 1).float() * 40
    return classes, masks


def theirs(classes, masks):
    return SimpleNamespace(class_queries_logits=classes[None], masks_queries_logits=masks[None])


@pytest.mark.parametrize("seed", range(3))
def test_semantic_is_equal(processor, seed):
    classes, masks = outputs(seed)
    found = processor.post_process_semantic_segmentation(theirs(classes, masks))[0]
    # other order of the float32 sum over queries: a tie may fall the other way
    assert (semantic_map(classes, masks) != found).float().mean() < 1e-5
    assert len(found.unique()) > 2


@pytest.mark.parametrize("seed", range(4))
def test_panoptic_is_equal_where_masks_do_not_overlap(processor, seed):
    classes, masks = outputs(seed, sure=True, apart=True)
    found = processor.post_process_panoptic_segmentation(
        theirs(classes, masks), threshold=0.8, overlap_mask_area_threshold=0.8,
        label_ids_to_fuse=set((~IS_THING).nonzero()[:, 0].tolist()),
    )[0]  # fmt: skip
    ours = panoptic(classes, masks, is_thing=IS_THING, object_mask_threshold=0.8, overlap_threshold=0.8)
    labels = {segment["id"]: segment["label_id"] for segment in found["segments_info"]}
    assert {segment.id: segment.label for segment in ours.segments} == labels
    kept = classes.argmax(-1) != CLASSES
    covered = (masks[kept] > 0).any(0)
    assert torch.equal(ours.segment_map[covered], found["segmentation"][covered])
    assert len(labels) == kept.sum() - 2, "three queries of stuff were fused"


def test_panoptic_leaves_pixels_outside_the_mask_void(processor):
    classes = torch.tensor([[40.0] + [0.0] * CLASSES])
    masks = torch.full((1, SIDE, SIDE), -1.0)
    masks[:, : SIDE // 2] = 5
    found = processor.post_process_panoptic_segmentation(
        theirs(classes, masks), threshold=0.8, overlap_mask_area_threshold=0.8, label_ids_to_fuse=set()
    )[0]["segmentation"]
    ours = panoptic(classes, masks, is_thing=IS_THING, object_mask_threshold=0.8, overlap_threshold=0.8)
    assert (found == 1).all(), "theirs takes every pixel"
    assert torch.equal(ours.segment_map > 0, masks[0] > 0)


@pytest.mark.parametrize("seed", range(3))
def test_instances_are_equal(processor, seed):
    classes, masks = outputs(seed)
    found = processor.post_process_instance_segmentation(
        theirs(classes, masks), threshold=0.0, return_binary_maps=True
    )[0]
    ours = instances(classes, masks, topk=QUERIES)  # theirs always keeps as many as queries
    scores = torch.tensor([segment["score"] for segment in found["segments_info"]])
    order = scores.argsort(descending=True)
    torch.testing.assert_close(ours.scores, scores[order], atol=1e-5, rtol=0)  # theirs rounds to 6 digits
    labels = torch.tensor([segment["label_id"] for segment in found["segments_info"]])
    assert torch.equal(ours.labels, labels[order])
    assert torch.equal(ours.masks, found["segmentation"][order].bool())
