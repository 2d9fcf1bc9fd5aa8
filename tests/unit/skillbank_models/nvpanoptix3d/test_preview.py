"""The four-panel picture: what is where, in which colour, at any size."""

import numpy as np
import pytest
from nvpanoptix3d_scenes import CATEGORIES, room_scene

from skillbank_models.nvpanoptix3d.preview import (
    UNKNOWN,
    DepthRange,
    depth_picture,
    depth_ramp,
    depth_range,
    draw_preview,
)
from skillbank_models.nvpanoptix3d.scene_segments import scene_segments


def preview(image, scene):
    segments = scene_segments(scene, CATEGORIES).image
    return draw_preview(image, scene.segment_map, segments, scene.depth, CATEGORIES)


def panels(picture):
    """The four panels of 640 x 480 below their titles, without the legend."""
    from skillbank_models.data.pictures import PANEL_TEXT, font_of, text_size

    head, gap = round(2 * font_of(1.2 * PANEL_TEXT * text_size(640, 480)).size), 8
    return [
        picture[top + head : top + head + 480, left : left + 640]
        for top in (0, head + 480)
        for left in (gap, 640 + 2 * gap)
    ]


def test_panels_show_image_instances_classes_and_depth():
    image, scene, _ = room_scene(volumes=False)
    plain, instances, classes, depth = panels(preview(image, scene))
    small = np.asarray(plain[2::4, 2::4][:120, :160], int)
    assert np.abs(small - image[1::2, 1::2]).mean() < 12  # the image, enlarged; it has noise
    segments = {s.name: s for s in scene_segments(scene, CATEGORIES).image}

    def tone(panel, name):
        rows, columns = np.nonzero(scene.segment_map == segments[name].id)
        inner = slice(len(rows) // 4, 3 * len(rows) // 4)
        return panel[4 * rows[inner] + 2, 4 * columns[inner] + 2].mean(axis=0)

    # both chairs have one class, yet differ as instances
    assert np.abs(tone(instances, "chair 1") - tone(instances, "chair 2")).max() > 12
    assert np.abs(tone(classes, "chair 1") - tone(classes, "chair 2")).max() < 12
    assert tone(depth, "chair 1").mean() > tone(depth, "sofa").mean() + 30  # near is light
    assert (depth[4, 100] == UNKNOWN).all()  # nothing was hit above the wall


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (700, 900)])
def test_any_size_of_image_is_drawn(size):
    _, scene, _ = room_scene(volumes=False)
    picture = preview(np.full((*size, 3), 90, np.uint8), scene)
    assert picture.dtype == np.uint8
    assert max(picture.shape[:2]) >= 640


def test_a_result_without_segments_and_depth_is_drawn():
    image, scene, _ = room_scene(volumes=False)
    scene.segment_map[:] = 0
    scene.segments = []
    scene.depth[:] = np.nan
    assert (panels(preview(image, scene))[3][100, 100] == UNKNOWN).all()


def test_range_leaves_out_what_is_unknown_and_what_is_rare():
    depth = np.linspace(1, 3, 1000, dtype=np.float32).reshape(20, 50)
    depth[0, :2], depth[1, :3] = (0, np.nan), 90
    near, far = depth_range(depth)
    assert near == pytest.approx(1, abs=0.05)
    assert far == pytest.approx(3, abs=0.05)
    assert depth_range(np.zeros((2, 2), np.float32)) == (0, 1)
    flat = depth_range(np.full((2, 2), 2, np.float32))
    assert flat.near < 2 < flat.far


def test_colours_run_from_near_to_far():
    ramp = depth_ramp()
    assert (ramp.shape, ramp.dtype) == ((256, 3), np.uint8)
    assert (np.diff(ramp.astype(int).sum(axis=1)) <= 6).all()  # ever darker, up to rounding of the map
    depth = np.array([[1.0, 2.0, 9.0]], np.float32)
    picture = depth_picture(depth, DepthRange(1, 2), (3, 1))
    assert np.array_equal(picture[0], ramp[[0, 255, 255]])
