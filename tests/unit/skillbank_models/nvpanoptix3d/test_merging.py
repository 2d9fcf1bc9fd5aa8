"""The merge of masks to segments against loops over pixels written from the published description."""

import pytest
import torch
import torch.nn.functional as F

from skillbank.errors import ShapeError
from skillbank_models.nvpanoptix3d import merging
from skillbank_models.nvpanoptix3d.merging import merge_image, segment_flat, to_plane, without_void

CLASSES = 5
THINGS = (False, True, True, False, False)  # 0 void; 1, 2 things; 3, 4 stuff
SETTINGS = {
    "is_thing": THINGS,
    "object_mask_threshold": 0.3,
    "overlap_threshold": 0.5,
    "depth_scale": 4.0,
}


def by_loops(class_logits, mask_logits, *, is_thing, object_mask_threshold, overlap_threshold):
    """Section 7.1 of the description, pixel by pixel; class 0 is treated like no-object."""
    queries, height, width = mask_logits.shape
    shares = class_logits.double().softmax(-1)
    prob = mask_logits.double().sigmoid()
    kept = []
    for q in range(queries):
        label = int(shares[q].argmax())
        if label not in (0, CLASSES) and shares[q, label] > object_mask_threshold:
            kept.append((q, label, float(shares[q, label])))
    pixels = [(y, x) for y in range(height) for x in range(width)]
    owner = {p: max(kept, key=lambda k: k[2] * float(prob[k[0]][p])) for p in pixels} if kept else {}
    segment_map = torch.zeros(height, width, dtype=torch.int32)
    scores = torch.zeros(CLASSES, height, width, dtype=torch.float64)
    segments, stuff_ids, accepted = {}, {}, []
    for one in kept:
        q, label, score = one
        area = sum(owner[p][0] == q for p in pixels)
        original = sum(float(prob[q][p]) >= 0.5 for p in pixels)
        final = [p for p in pixels if owner[p][0] == q and float(prob[q][p]) >= 0.5]
        if not area or not original or not final or area / original < overlap_threshold:
            continue
        if not is_thing[label] and label in stuff_ids:
            number = stuff_ids[label]
            segments[number][3] = max(segments[number][3], score)
        else:
            number = len(segments) + 1
            segments[number] = [q, label, is_thing[label], score]
            if not is_thing[label]:
                stuff_ids[label] = number
        if not is_thing[label]:
            accepted.append(one)
        for p in final:
            segment_map[p] = number
            scores[label][p] = score * prob[q][p]
    if accepted:
        for p in pixels:
            if segment_map[p] == 0:
                q, label, score = max(accepted, key=lambda k: k[2] * float(prob[k[0]][p]))
                segment_map[p] = stuff_ids[label]
                scores[label][p] = score * prob[q][p]
    return segment_map, segments, scores


def random_case(seed, queries=9, size=(7, 9)):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(queries, CLASSES + 1, generator=draw) * 2, torch.randn(
        queries, *size, generator=draw
    ) * 3


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
def test_the_merge_equals_loops_over_pixels(overlap):
    seen = 0
    for seed in range(12):
        logits, masks = random_case(seed)
        settings = {**SETTINGS, "overlap_threshold": overlap}
        found = merge_image(logits, masks, torch.zeros(7, 9), **settings)
        settings.pop("depth_scale")
        wanted, segments, scores = by_loops(logits, masks, **settings)
        assert torch.equal(found.segment_map, wanted)
        torch.testing.assert_close(found.class_scores.double(), scores, rtol=1e-5, atol=1e-6)
        assert {s.id: [s.query, s.label, s.is_thing] for s in found.segments} == {
            number: values[:3] for number, values in segments.items()
        }
        for segment in found.segments:
            assert segment.score == pytest.approx(segments[segment.id][3], rel=1e-5)
        seen += len(segments)
    assert seen > 5  # the comparison was about something


def test_large_images_are_merged_some_queries_at_a_time(monkeypatch):
    """Photos of many megapixels: masks of all queries at their size would take gigabytes."""
    size, asked = (13, 17), []

    def larger(masks):
        asked.append(len(masks))
        return F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]

    seen = 0
    for seed in range(6):
        logits, masks = random_case(seed)
        at_once = merge_image(logits, larger(masks), torch.ones(size), **SETTINGS)
        asked.clear()
        with monkeypatch.context() as patch:
            patch.setattr(merging, "CPU_BLOCK", 2 * size[0] * size[1])
            found = merge_image(logits, masks, torch.ones(size), resize=larger, **SETTINGS)
        assert max(asked) <= 2
        assert torch.equal(found.segment_map, at_once.segment_map)
        assert found.segments == at_once.segments
        # vector and scalar code round probabilities differently, by one unit
        torch.testing.assert_close(found.class_scores, at_once.class_scores, rtol=1e-6, atol=0)
        seen += len(found.segments)
    assert seen > 5
    monkeypatch.setattr(merging, "CPU_BLOCK", 1)
    nothing = merge_image(torch.eye(CLASSES + 1)[:1], masks[:1], torch.ones(size), resize=larger, **SETTINGS)
    assert not nothing.segment_map.any()
    assert nothing.segments == []


def certain(labels, size=(4, 6), score=10.0):
    logits = torch.zeros(len(labels), CLASSES + 1)
    logits[torch.arange(len(labels)), torch.tensor(labels)] = score
    return logits, torch.full((len(labels), *size), -8.0)


def test_stuff_of_one_class_is_one_segment_and_takes_what_is_left():
    logits, masks = certain([3, 1, 3, 2])
    masks[0, :, 0], masks[1, :2, 2:4], masks[2, :, 5], masks[3, 3, 2] = 8.0, 8.0, 8.0, 8.0
    masks[2, :, 3:5] = -1.0  # nearest of all to the middle
    found = merge_image(logits, masks, torch.zeros(4, 6), **SETTINGS)
    assert [(s.id, s.query, s.label, s.is_thing) for s in found.segments] == [
        (1, 0, 3, False), (2, 1, 1, True), (3, 3, 2, True),
    ]  # fmt: skip
    assert (found.segment_map > 0).all()
    assert (found.segment_map[:2, 2:4] == 2).all()
    assert found.segment_map[3, 2] == 3
    assert (found.segment_map == 1).sum() == 24 - 4 - 1
    middle = found.class_scores[3, 3, 4]
    assert middle.item() == pytest.approx(torch.tensor(-1.0).sigmoid().item(), rel=1e-3)


def test_without_stuff_pixels_of_nobody_stay_empty():
    logits, masks = certain([1])
    masks[0, 0] = 8.0
    found = merge_image(logits, masks, torch.zeros(4, 6), **SETTINGS)
    assert found.segment_map.sum() == 6
    assert found.class_scores[:, 1:].sum() == 0


@pytest.mark.parametrize("label", [0, CLASSES])
def test_void_is_no_object(label):
    """A void query would otherwise be stuff that swallows the image."""
    logits, masks = certain([label, 1])
    masks[0], masks[1, 0, 0] = 8.0, 9.0
    found = merge_image(logits, masks, torch.zeros(4, 6), **SETTINGS)
    assert [s.label for s in found.segments] == [1]
    assert found.segment_map.sum() == 1
    assert not found.class_scores[0].any()


def test_an_image_without_segments_is_empty_and_its_depth_is_limited():
    logits, masks = certain([0, CLASSES])
    depth = torch.tensor([-1.0, 2.0, 9.0]).expand(4, 3)
    found = merge_image(logits, masks[:, :, :3], depth, **SETTINGS)
    assert found.segments == []
    assert found.segment_map.dtype == torch.int32
    assert not found.segment_map.any()
    assert not found.class_scores.any()
    assert found.depth[0].tolist() == [0.0, 2.0, 4.0]


def test_sixteen_bits_are_merged_in_thirty_two():
    logits, masks = random_case(3)
    with torch.autocast("cpu", torch.bfloat16):
        found = merge_image(logits.bfloat16(), masks.bfloat16(), torch.ones(7, 9).bfloat16(), **SETTINGS)
    wanted = merge_image(logits.bfloat16().float(), masks.bfloat16().float(), torch.ones(7, 9), **SETTINGS)
    assert found.class_scores.dtype == found.depth.dtype == torch.float32
    assert torch.equal(found.segment_map, wanted.segment_map)


def test_maps_come_to_the_plane_by_half_the_padded_size():
    maps = torch.randn(2, 3, 26, 32, generator=torch.Generator().manual_seed(0))
    found = to_plane(maps, padded=(64, 80), sizes=[(60, 80)] * 2, plane=(30, 40))
    wanted = F.interpolate(maps.double(), (32, 40), mode="bilinear", align_corners=False)[:, :, :30]
    # coordinates are float32 on one side, values are of size 1
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-5)
    other = to_plane(maps, padded=(64, 80), sizes=[(60, 80)] * 2, plane=(15, 20))
    wanted = F.interpolate(wanted, (15, 20), mode="bilinear", align_corners=False)
    torch.testing.assert_close(other.double(), wanted, rtol=0, atol=2e-5)


def test_images_of_other_sizes_are_cut_one_by_one():
    maps = torch.randn(2, 3, 26, 32, generator=torch.Generator().manual_seed(0))
    sizes = [(60, 80), (63, 55)]
    together = to_plane(maps, padded=(64, 80), sizes=sizes, plane=(30, 40))
    for image, size in enumerate(sizes):
        alone = to_plane(maps[image : image + 1], padded=(64, 80), sizes=[size], plane=(30, 40))
        torch.testing.assert_close(together[image : image + 1], alone)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"cover \(64, 80\), but sizes \[\(65, 80\)\]"):
        to_plane(torch.zeros(1, 1, 4, 4), padded=(64, 80), sizes=[(65, 80)], plane=(3, 4))
    with pytest.raises(ShapeError, match="maps of 2 images"):
        to_plane(torch.zeros(2, 1, 4, 4), padded=(64, 80), sizes=[(60, 80)], plane=(3, 4))


def test_void_joins_no_object():
    logits, _ = random_case(0)
    before, after = logits.softmax(-1), without_void(logits).softmax(-1)
    torch.testing.assert_close(after[:, 1:-1], before[:, 1:-1])
    torch.testing.assert_close(after[:, -1], before[:, -1] + before[:, 0])
    assert not after[:, 0].any()


def test_flat_modes_never_say_void():
    logits, masks = certain([0, 1, 3], size=(8, 8))
    masks[0], masks[1, :4, :4], masks[2, 4:] = 8.0, 8.0, 8.0
    settings = {
        "padded": (32, 32), "content": (24, 32), "original": (24, 32), "is_thing": THINGS, "topk": 5,
    }  # fmt: skip
    semantic = segment_flat(logits, masks, mode="semantic", **settings)
    assert set(semantic.class_map.unique().tolist()) <= {1, 2, 3, 4}
    assert (semantic.class_map[:14, :14] == 1).all()
    instance = segment_flat(logits, masks, mode="instance", **settings)
    assert instance.instances.labels[0] == 1
    assert THINGS[int(instance.instances.labels.min())]
    assert instance.instances.masks[0].sum() == pytest.approx(16 * 16, abs=32)
