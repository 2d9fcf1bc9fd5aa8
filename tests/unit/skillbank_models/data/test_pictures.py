"""Pictures: what is drawn where, in which colour, and where names go."""

import numpy as np
import pytest
import torch

from skillbank_models.data.batch import SegmentTruth, Truth
from skillbank_models.data.categories import Categories, Category
from skillbank_models.data.drawn_regions import regions_of_result, regions_of_truth
from skillbank_models.data.pictures import draw_result, draw_truth, side_by_side
from skillbank_models.data.run_lengths import encode_mask
from skillbank_models.data.text_places import TextPlaces
from skillbank_models.ops.image_result import ImageResult, InstanceResult, PanopticResult, PredictedSegment

CATEGORIES = Categories(
    (Category(1, "cat", (200, 30, 30), True), Category(2, "sky", (40, 90, 220), False), None)
)
SIZE = (60, 80)


def maps():
    segment_map = np.zeros(SIZE, np.int32)
    segment_map[:30] = 1
    segment_map[20:50, 5:30] = 2
    segment_map[25:55, 45:75] = 3
    class_map = np.array([-1, 1, 0, 0])[segment_map].astype(np.int32)
    return segment_map, class_map


def panoptic():
    segment_map, class_map = maps()
    segments = [
        PredictedSegment(1, 1, False, 0.95, 0),
        PredictedSegment(2, 0, True, 0.9, 0),
        PredictedSegment(3, 0, True, 0.7, 0),
    ]
    return ImageResult(torch.from_numpy(class_map), PanopticResult(torch.from_numpy(segment_map), segments))


def instances():
    segment_map, class_map = maps()
    masks = torch.from_numpy(np.stack([segment_map == 2, segment_map == 3]))
    found = InstanceResult(torch.tensor([0, 0]), torch.tensor([0.9, 0.2]), masks, torch.tensor([0, 1]))
    return ImageResult(torch.from_numpy(class_map), instances=found)


class TestRegions:
    def test_segments_cover_their_pixels(self):
        segment_map, _ = maps()
        regions = regions_of_result(panoptic(), CATEGORIES, min_score=0)
        assert [region.area for region in regions] == sorted(
            (region.area for region in regions), reverse=True
        )
        drawn = np.zeros(SIZE, int)
        for region in regions:
            rows, columns = region.mask.shape
            drawn[region.top : region.top + rows, region.left : region.left + columns] += region.mask
            assert region.mask.any(0).all()
            assert region.mask.any(1).all()
        assert np.array_equal(drawn, segment_map > 0)

    def test_instances_of_a_class_differ_and_the_first_has_its_colour(self):
        cats = [r for r in regions_of_result(panoptic(), CATEGORIES, min_score=0) if r.label == 0]
        assert cats[0].color == (200, 30, 30)
        assert cats[1].color != cats[0].color
        again = [r for r in regions_of_result(panoptic(), CATEGORIES, min_score=0) if r.label == 0]
        assert [region.color for region in again] == [region.color for region in cats]

    def test_weak_instances_are_left_out(self):
        assert len(regions_of_result(instances(), CATEGORIES, min_score=0.5)) == 1
        assert len(regions_of_result(instances(), CATEGORIES, min_score=0.1)) == 2

    def test_classes_have_no_score_and_no_shades(self):
        regions = regions_of_result(ImageResult(panoptic().class_map), CATEGORIES, min_score=0)
        assert {(region.label, region.score, region.is_thing) for region in regions} == {
            (0, None, False), (1, None, False),
        }  # fmt: skip

    def test_annotations_in_all_their_forms(self):
        segment_map, class_map = maps()
        crowd = [SegmentTruth(1, 1, False, 1), SegmentTruth(2, 0, False, 1), SegmentTruth(3, 0, True, 1)]
        assert len(regions_of_truth(Truth(class_map, segment_map, crowd), CATEGORIES)) == 2
        with_runs = [SegmentTruth(2, 0, False, 1, encode_mask(segment_map == 2))]
        (region,) = regions_of_truth(Truth(class_map, None, with_runs), CATEGORIES)
        assert (region.top, region.left, region.mask.shape) == (20, 5, (30, 25))
        assert region.mask.all()
        assert len(regions_of_truth(Truth(class_map, None, []), CATEGORIES)) == 2
        assert regions_of_truth(Truth(None, None, []), CATEGORIES) == []


class TestPictures:
    @pytest.mark.parametrize("result", [panoptic(), instances(), ImageResult(panoptic().class_map)])
    def test_masks_are_tinted_and_void_is_untouched(self, result):
        image = np.full((*SIZE, 3), 100, np.uint8)
        drawn = draw_result(image, result, CATEGORIES, legend=False)
        times = drawn.shape[0] // SIZE[0]
        assert drawn.shape == (SIZE[0] * times, SIZE[1] * times, 3)
        assert times == 8
        cat, void = drawn[45 * times, 10 * times], drawn[58 * times, 2 * times]
        assert cat[0] > cat[2] + 40
        assert void.tolist() == [100, 100, 100]

    def test_the_legend_is_below_and_shows_each_class(self):
        image = np.full((*SIZE, 3), 100, np.uint8)
        plain = draw_result(image, panoptic(), CATEGORIES, legend=False)
        full = draw_result(image, panoptic(), CATEGORIES)
        assert np.array_equal(full[: len(plain)], plain)
        colors = {tuple(color) for color in full[len(plain) :].reshape(-1, 3).tolist()}
        assert {(200, 30, 30), (40, 90, 220)} <= colors

    def test_large_images_keep_their_size(self):
        image = np.zeros((600, 1200, 3), np.uint8)
        nothing = ImageResult(torch.full((600, 1200), -1, dtype=torch.int32))
        assert np.array_equal(draw_result(image, nothing, CATEGORIES), image)

    def test_the_image_is_not_changed(self):
        image = np.full((1000, 1100, 3), 100, np.uint8)
        classes = torch.zeros(1000, 1100, dtype=torch.int32)
        draw_result(image, ImageResult(classes), CATEGORIES)
        assert (image == 100).all()

    def test_panels_side_by_side(self):
        image = np.full((*SIZE, 3), 100, np.uint8)
        segment_map, class_map = maps()
        segments = [SegmentTruth(1, 1, False, 1), SegmentTruth(2, 0, False, 1), SegmentTruth(3, 0, False, 1)]
        three = side_by_side(image, panoptic(), Truth(class_map, segment_map, segments), CATEGORIES)
        two = side_by_side(image, panoptic(), None, CATEGORIES)
        assert three.shape[0] == two.shape[0]
        assert three.shape[1] > 1.4 * two.shape[1]
        assert draw_truth(image, Truth(class_map, None, []), CATEGORIES).dtype == np.uint8

    @pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 2)])
    def test_odd_sizes(self, size):
        image = np.zeros((*size, 3), np.uint8)
        classes = torch.zeros(size, dtype=torch.int32)
        drawn = draw_result(image, ImageResult(classes), CATEGORIES)
        assert drawn.shape[1] >= size[1]


class TestPlaces:
    def test_inside_when_there_is_room(self):
        places = TextPlaces(100, 100, gap=2)
        mask = np.ones((60, 80), bool)
        left, top, right, bottom = places.place(mask, 10, 20, 1.0, (30, 10))
        assert left >= 10
        assert right <= 90
        assert top >= 20
        assert bottom <= 80

    def test_beside_when_the_region_is_small(self):
        places = TextPlaces(100, 100, gap=2)
        box = places.place(np.ones((4, 4), bool), 50, 50, 1.0, (30, 10))
        assert box[3] <= 50, "above it"
        second = places.place(np.ones((4, 4), bool), 50, 50, 1.0, (30, 10))
        assert second[1] >= 54, "below it"

    def test_no_two_texts_touch_and_none_leaves_the_picture(self):
        rng = np.random.default_rng(0)
        places, boxes = TextPlaces(200, 150, gap=2), []
        for _ in range(60):
            rows, columns = rng.integers(3, 70, 2)
            top, left = rng.integers(0, 150 - rows), rng.integers(0, 200 - columns)
            box = places.place(rng.random((rows, columns)) < 0.9, int(left), int(top), 1.0, (40, 12))
            if box is not None:
                boxes.append(box)
        assert len(boxes) > 15
        for number, one in enumerate(boxes):
            assert one[0] >= 0
            assert one[1] >= 0
            assert one[2] <= 200
            assert one[3] <= 150
            for other in boxes[:number]:
                apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
                assert apart

    def test_a_full_picture_has_no_place(self):
        places = TextPlaces(40, 12, gap=2)
        assert places.place(np.ones((12, 40), bool), 0, 0, 1.0, (24, 5)) is not None
        assert places.place(np.ones((12, 40), bool), 0, 0, 1.0, (24, 5)) is None
