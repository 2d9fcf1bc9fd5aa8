"""Post-processing against the rules written out directly, one query and one pixel at a time."""

import pytest
import torch
import torch.nn.functional as F

from skillbank.errors import ShapeError
from skillbank_models.data.batch import IGNORE
from skillbank_models.ops import postprocess
from skillbank_models.ops.postprocess import (
    instances,
    panoptic,
    resize_masks,
    segment_image,
    semantic_map,
    semantic_scores,
)

QUERIES, CLASSES, SIZE = 11, 5, (24, 30)
IS_THING = torch.tensor([True, False, True, False, True])
RULE = {"is_thing": IS_THING, "object_mask_threshold": 0.3, "overlap_threshold": 0.6}


def blobs(seed: int, size=SIZE, queries: int = QUERIES, classes: int = CLASSES):
    """Logits of smooth overlapping masks and fairly sure classes."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randn(queries, 5, 6, generator=generator) * 4
    masks = F.interpolate(small[None], size=size, mode="bicubic", align_corners=False)[0]
    return torch.randn(queries, classes + 1, generator=generator) * 2, masks


def slow_panoptic(class_logits, mask_logits, *, is_thing, object_mask_threshold, overlap_threshold):
    """The published rule, query by query; returns the map and (label, is_thing, score, area) by id."""
    scores, labels = class_logits.softmax(-1).max(-1)
    probabilities = mask_logits.sigmoid()
    kept = [
        q
        for q in range(len(labels))
        if labels[q] != class_logits.shape[1] - 1 and scores[q] > object_mask_threshold
    ]
    segment_map = torch.zeros(mask_logits.shape[1:], dtype=torch.int32)
    segments = {}
    if not kept:
        return segment_map, segments
    owner = torch.stack([scores[q] * probabilities[q] for q in kept]).argmax(0)
    stuff = {}
    for place, q in enumerate(kept):
        region, full = owner == place, probabilities[q] >= 0.5
        final = region & full
        if not region.sum() or not full.sum() or not final.sum():
            continue
        if region.sum().item() / full.sum().item() < overlap_threshold:
            continue
        label, thing = int(labels[q]), bool(is_thing[labels[q]])
        if not thing and label in stuff:
            number = stuff[label]
        else:
            number = len(segments) + 1
            segments[number] = [label, thing, 0.0, 0]
            if not thing:
                stuff[label] = number
        segment_map[final] = number
        segments[number][2] = max(segments[number][2], float(scores[q]))
        segments[number][3] += int(final.sum())
    return segment_map, segments


def slow_instances(class_logits, mask_logits, topk, keep):
    """(label, score, mask) of every pair, by the published rule."""
    flat = class_logits.softmax(-1)[:, :-1].flatten()
    found = []
    for index in sorted(range(len(flat)), key=lambda i: -float(flat[i]))[:topk]:
        query, label = divmod(index, class_logits.shape[1] - 1)
        mask = mask_logits[query] > 0
        if (keep is not None and not keep[label]) or not mask.any():
            continue
        inside = (mask_logits[query].sigmoid() * mask).sum() / (mask.sum() + 1e-6)
        found.append((label, float(flat[index] * inside), mask))
    return sorted(found, key=lambda item: -item[1])


@pytest.fixture(params=[1 << 22, 2 * 24 * 30], ids=["one block", "blocks of two"])
def block(request, monkeypatch):
    monkeypatch.setattr(postprocess, "CPU_BLOCK", request.param)


@pytest.mark.usefixtures("block")
class TestRules:
    @pytest.mark.parametrize("seed", range(8))
    def test_panoptic_is_the_published_rule(self, seed):
        class_logits, masks = blobs(seed)
        expected_map, expected = slow_panoptic(class_logits, masks, **RULE)
        result = panoptic(class_logits, masks, **RULE)
        assert result.segment_map.dtype == torch.int32
        assert torch.equal(result.segment_map, expected_map)
        assert {s.id: [s.label, s.is_thing, s.area] for s in result.segments} == {
            number: [label, thing, area] for number, (label, thing, _, area) in expected.items()
        }
        assert [s.score for s in result.segments] == pytest.approx([row[2] for row in expected.values()])

    def test_the_cases_hold_merged_stuff_and_hidden_segments(self):
        merged = hidden = 0
        for seed in range(8):
            class_logits, masks = blobs(seed)
            scores, labels = class_logits.softmax(-1).max(-1)
            kept = labels[(labels < CLASSES) & (scores > 0.3)].tolist()
            found = panoptic(class_logits, masks, **RULE).segments
            stuff = [label for label in kept if not IS_THING[label]]
            merged += len(stuff) - len(set(stuff))
            hidden += len(kept) - len(found)
        assert merged > 3
        assert hidden > merged

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("keep", [None, IS_THING])
    def test_instances_are_the_published_rule(self, seed, keep):
        class_logits, masks = blobs(seed)
        result = instances(class_logits, masks, topk=20, keep=keep)
        expected = slow_instances(class_logits, masks, 20, keep)
        assert result.labels.tolist() == [item[0] for item in expected]
        assert result.scores.tolist() == pytest.approx([item[1] for item in expected], abs=1e-6)
        assert torch.equal(result.masks, torch.stack([item[2] for item in expected]))
        assert torch.equal(result.masks, masks[result.queries] > 0)

    def test_scores_are_the_direct_sum(self):
        class_logits, masks = blobs(3)
        expected = torch.einsum("qc,qhw->chw", class_logits.softmax(-1)[:, :-1], masks.sigmoid())
        scores = semantic_scores(class_logits, masks)
        torch.testing.assert_close(scores, expected, atol=2e-6, rtol=0)  # other order of float32 sums
        clear = expected.topk(2, dim=0).values.diff(dim=0)[0].abs() > 1e-5
        assert clear.float().mean() > 0.99
        assert torch.equal(semantic_map(class_logits, masks)[clear], expected.argmax(0)[clear])


def whole(class_logits, masks, mode, **changes):
    settings = {
        "mode": mode, "padded": (32, 64), "content": (30, 50), "original": (45, 77), "topk": 7, **RULE,
    }  # fmt: skip
    return segment_image(class_logits, masks, **{**settings, **changes})


class TestImage:
    @pytest.mark.parametrize("mode", ["semantic", "instance", "panoptic"])
    def test_every_mode_has_a_class_map_and_its_own_result(self, mode):
        class_logits, masks = blobs(1, (8, 16))
        full = resize_masks(masks, padded=(32, 64), content=(30, 50), original=(45, 77))
        result = whole(class_logits, masks, mode)
        assert result.class_map.dtype == torch.int32
        assert (result.class_map != semantic_map(class_logits, full)).float().mean() < 1e-3
        assert (result.panoptic is not None) == (mode == "panoptic")
        assert (result.instances is not None) == (mode == "instance")
        if mode == "panoptic":
            assert torch.equal(result.panoptic.segment_map, panoptic(class_logits, full, **RULE).segment_map)
        if mode == "instance":
            direct = instances(class_logits, full, topk=7, keep=IS_THING)
            assert torch.equal(result.instances.masks, direct.masks)
            assert IS_THING[result.instances.labels].all()

    def test_instances_of_stuff_only_when_asked(self):
        class_logits, masks = blobs(1, (8, 16))
        found = whole(class_logits, masks, "instance", things_only=False, topk=100).instances
        assert not IS_THING[found.labels].all()

    def test_classes_in_several_passes_give_the_same_map(self, monkeypatch):
        class_logits, masks = blobs(2, (8, 16))
        once = whole(class_logits, masks, "panoptic")
        monkeypatch.setattr(postprocess, "SCORE_VALUES", 2 * 45 * 77)
        passes = whole(class_logits, masks, "panoptic")
        assert torch.equal(once.panoptic.segment_map, passes.panoptic.segment_map)
        assert (once.class_map != passes.class_map).float().mean() < 1e-3

    def test_two_resizes_and_a_crop(self):
        _, masks = blobs(0, (8, 16))
        up = F.interpolate(masks[None], (32, 64), mode="bilinear", align_corners=False)[..., :30, :50]
        expected = F.interpolate(up, (45, 77), mode="bilinear", align_corners=False)[0]
        found = resize_masks(masks, padded=(32, 64), content=(30, 50), original=(45, 77))
        assert torch.equal(found, expected)

    def test_half_precision_and_autocast_change_nothing(self):
        class_logits, masks = (tensor.bfloat16() for tensor in blobs(4, (8, 16)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = whole(class_logits, masks, "panoptic")
        full = whole(class_logits.float(), masks.float(), "panoptic")
        assert torch.equal(low.class_map, full.class_map)
        assert torch.equal(low.panoptic.segment_map, full.panoptic.segment_map)


class TestEdges:
    def test_one_class_is_foreground_above_one_half(self):
        class_logits = torch.tensor([[20.0, 0.0]])
        masks = torch.tensor([[[-1.0, 0.0, 0.1, 3.0]]])
        assert semantic_map(class_logits, masks).tolist() == [[IGNORE, IGNORE, 0, 0]]

    def test_no_query_left_gives_void_only(self):
        class_logits = torch.tensor([[0.0, 0.0, 9.0]] * 3)
        result = panoptic(
            class_logits, torch.ones(3, 4, 5), is_thing=torch.tensor([True, False]),
            object_mask_threshold=0.5, overlap_threshold=0.8,
        )  # fmt: skip
        assert result.segments == []
        assert not result.segment_map.any()
        assert result.segment_map.shape == (4, 5)

    def test_a_score_equal_to_the_threshold_is_dropped(self):
        class_logits = torch.tensor([[0.0, 0.0, -torch.inf]])  # scores exactly one half
        kwargs = {"is_thing": torch.tensor([True, True]), "overlap_threshold": 0.0}
        masks = torch.ones(1, 2, 2)
        assert not panoptic(class_logits, masks, object_mask_threshold=0.5, **kwargs).segments
        assert panoptic(class_logits, masks, object_mask_threshold=0.49, **kwargs).segments

    def test_a_visible_share_equal_to_the_threshold_is_kept(self):
        class_logits = torch.tensor([[9.0, 0.0, -9.0], [8.0, 0.0, -9.0]])
        masks = torch.tensor([[[5.0, 5.0, -5.0, -5.0]], [[5.0, 5.0, 5.0, 5.0]]])
        kwargs = {"is_thing": torch.tensor([True, True]), "object_mask_threshold": 0.4}
        assert len(panoptic(class_logits, masks, overlap_threshold=0.5, **kwargs).segments) == 2
        assert len(panoptic(class_logits, masks, overlap_threshold=0.51, **kwargs).segments) == 1

    def test_of_equal_votes_the_first_query_wins(self, monkeypatch):
        monkeypatch.setattr(postprocess, "CPU_BLOCK", 1)
        class_logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
        result = panoptic(
            class_logits, torch.ones(2, 3, 3), is_thing=torch.tensor([True, True]),
            object_mask_threshold=0.1, overlap_threshold=0.8,
        )  # fmt: skip
        assert [segment.label for segment in result.segments] == [0]

    def test_empty_masks_are_no_instances(self):
        class_logits = torch.randn(3, 4)
        masks = torch.full((3, 5, 5), -1.0)
        masks[1, 2, 2] = 1
        assert set(instances(class_logits, masks, topk=9).queries.tolist()) == {1}
        result = instances(class_logits, masks, topk=9, keep=torch.zeros(3, dtype=torch.bool))
        assert result.masks.shape == (0, 5, 5)

    def test_topk_larger_than_all_pairs(self):
        class_logits, masks = blobs(5)
        assert len(instances(class_logits, masks, topk=10_000).labels) == QUERIES * CLASSES

    def test_wrong_shapes_are_named(self):
        with pytest.raises(ShapeError, match=r"\(2, 3, 4\).*one image"):
            semantic_map(torch.zeros(2, 3, 4), torch.zeros(2, 5, 5))
        with pytest.raises(ShapeError, match=r"content \(40, 10\)"):
            resize_masks(torch.zeros(2, 5, 5), padded=(32, 32), content=(40, 10), original=(5, 5))
        with pytest.raises(ShapeError, match="one column more than classes"):
            semantic_map(torch.zeros(2, 1), torch.zeros(2, 5, 5))
