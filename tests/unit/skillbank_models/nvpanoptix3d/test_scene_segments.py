"""Names and colours of segments: the same object looks the same in every result."""

import colorsys
from itertools import pairwise

import numpy as np
from nvpanoptix3d_scenes import CATEGORIES

from skillbank_models.nvpanoptix3d.outputs import Scene, Segment
from skillbank_models.nvpanoptix3d.scene_segments import legible, scene_segments


def scene(flat, solid):
    empty = np.zeros((2, 2), np.int32)
    return Scene(empty, flat, empty.astype(np.float32), np.eye(3), None, None, None, solid)


def test_a_query_has_one_name_and_colour_whatever_its_number():
    flat = [Segment(1, 7, 3, True, 0.9), Segment(2, 8, 3, True, 0.8), Segment(3, 9, 10, False, 0.7)]
    solid = [Segment(1, 9, 10, False, 0.7), Segment(2, 8, 3, True, 0.6), Segment(3, 5, 3, True, 0.5)]
    image, volume = scene_segments(scene(flat, solid), CATEGORIES)
    assert [one.name for one in image] == ["chair 1", "chair 2", "wall"]
    assert [one.name for one in volume] == ["wall", "chair 2", "chair 3"]
    assert volume[1].color == image[1].color
    assert len({one.color for one in [*image, *volume] if one.label == 3}) == 3
    assert image[2].color == volume[0].color == CATEGORIES.color(10)
    assert volume[1].as_json() == {
        "id": 2, "class_id": 3, "class_name": "chair", "name": "chair 2", "isthing": 1, "score": 0.6,
        "color": list(image[1].color),
    }  # fmt: skip


def test_a_single_thing_has_no_number():
    image, _ = scene_segments(scene([Segment(1, 0, 4, True, 1.0)], []), CATEGORIES)
    assert image[0].name == "sofa"


def test_dark_classes_become_light_and_keep_their_order():
    light = legible(CATEGORIES)
    assert light.by_index[0] is None
    assert light.name(4) == "sofa"
    by_lightness = sorted(CATEGORIES.used, key=lambda i: colorsys.rgb_to_hls(*CATEGORIES.color(i))[1])
    for index in by_lightness:
        # relative luminance of the screen, 0..1; the label map has colours below 0.02
        luminance = np.dot((np.array(light.color(index)) / 255) ** 2.2, (0.2126, 0.7152, 0.0722))
        assert luminance > 0.1, light.name(index)
    blues = [max(light.color(index)) for index in (4, 3, 7)]  # sofa, chair, dresser: one hue, ever lighter
    assert all(first < second for first, second in pairwise(blues))
