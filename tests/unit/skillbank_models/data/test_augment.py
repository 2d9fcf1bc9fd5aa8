"""Augmentation: image and regions stay together, and every step has the closed form it should have."""

from functools import partial
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from skillbank_models.data import augment
from skillbank_models.data.augment import EvalSize, TrainAugment, color_jitter, resize_image, short_edge_size
from skillbank_models.data.regions import MapRegions, MaskRegions, Window

Regions = MapRegions | MaskRegions
RNG = np.random.default_rng(0)


usual = partial(TrainAugment, flip_prob=0.5, jitter=True)


def map_of(classes: np.ndarray) -> MapRegions:
    """One region for each class above 0 of a map."""
    labels = np.arange(int(classes.max()))
    crowd = np.zeros(len(labels), bool)
    return MapRegions(classes.astype(np.uint16), list(range(1, len(labels) + 1)), labels, crowd)


def masks_of(classes: np.ndarray) -> MaskRegions:
    """The same, as masks."""
    labels = np.arange(int(classes.max()))
    planes = (classes[None] == labels[:, None, None] + 1).astype(np.uint8)
    return MaskRegions(planes, list(range(1, len(labels) + 1)), labels, np.zeros(len(labels), bool))


def planes(regions: Regions) -> np.ndarray:
    return regions.masks([[place] for place in range(len(regions.labels))])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours stay, so that pixels tell where they came from."""
    monkeypatch.setattr(augment, "color_jitter", lambda image: image)


def scene(height: int = 40, width: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """An image whose channels are class, row and column in blocks of 4 pixels."""
    rows, columns = np.mgrid[0:height, 0:width] // 4
    classes = (rows // 3 + 2 * (columns // 4)) % 5
    return np.stack([classes * 50, rows * 20, columns * 15], axis=-1).astype(np.uint8), classes


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("build", [map_of, masks_of])
def test_image_and_regions_stay_together(build: Any) -> None:
    """The class channel of the image says at every pixel what the regions say, but for blurred edges."""
    image, classes = scene()
    change = usual(target_size=None, min_sizes=[30, 44, 80, 113], max_size=400, crop_size=(48, 64))
    sizes = set()
    for seed in range(30):
        np.random.seed(seed)
        seen, regions = change(image, build(classes))
        assert seen.shape[:2] == regions.size
        sizes.add(regions.size)
        found = np.zeros(regions.size, int)
        for place, mask in enumerate(planes(regions)):
            found[mask] = place + 1
        differ = np.abs(seen[..., 0].astype(int) - 50 * found)
        flat = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5))) == 0
        assert flat.mean() > 0.1
        assert differ[flat].max() <= 1
    assert len(sizes) == 3
    assert max(height for height, _ in sizes) == 48
    assert max(width for _, width in sizes) == 64


def test_both_kinds_of_regions_agree() -> None:
    image, classes = scene()
    change = usual(target_size=(50, 70), min_sizes=[30, 60], max_size=90, crop_size=(32, 32))
    for seed in range(12):
        np.random.seed(seed)
        first = change(image, map_of(classes))
        np.random.seed(seed)
        second = change(image, masks_of(classes))
        assert np.array_equal(first[0], second[0])
        assert np.array_equal(planes(first[1]), planes(second[1]))


@pytest.mark.usefixtures("drawn")
def test_half_of_the_images_are_mirrored() -> None:
    image, classes = scene()
    change = usual(target_size=None, min_sizes=[40, 40], max_size=400, crop_size=(40, 60))
    mirrored = 0
    for seed in range(60):
        np.random.seed(seed)
        seen, regions = change(image, map_of(classes))
        if not np.array_equal(seen, image):
            assert np.array_equal(seen, image[:, ::-1])
            assert np.array_equal(regions.numbers, classes[:, ::-1])
            mirrored += 1
    assert 20 <= mirrored <= 40


@pytest.mark.parametrize(
    ("full", "source"), [((97, 131), (40, 60)), ((17, 23), (40, 60)), ((40, 60), (40, 60))]
)
@pytest.mark.parametrize("build", [map_of, masks_of])
def test_regions_are_resized_as_pillow_and_opencv_do(
    full: tuple[int, int], source: tuple[int, int], build: Any
) -> None:
    classes = RNG.integers(0, 6, source)
    regions = build(classes).resized(Window(full, 3, 5, (9, 11)))
    size = full[1], full[0]
    pillow = np.asarray(Image.fromarray(classes.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    opencv = cv2.resize(classes.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
    for whole in (pillow, opencv):
        part = whole[3:12, 5:16]
        assert np.array_equal(planes(regions), part[None] == np.arange(1, 6)[:, None, None])


@pytest.mark.parametrize("full", [(97, 131), (17, 23)])
def test_a_crop_of_a_resized_image_is_the_crop(full: tuple[int, int]) -> None:
    image = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    whole = np.asarray(Image.fromarray(image).resize(full[::-1], Image.Resampling.BILINEAR))
    part = resize_image(image, Window(full, 3, 5, (9, 11)))
    # Pillow holds the box in single precision and weights in fixed point
    assert np.abs(part.astype(int) - whole[3:12, 5:16]).max() <= 2
    same = Window((40, 60), 3, 5, (9, 11))
    assert np.array_equal(resize_image(image, same), image[3:12, 5:16])


@pytest.mark.parametrize(
    ("size", "shortest", "longest", "expected"),
    [
        ((480, 640), 640, 2560, (640, 853)),
        ((640, 480), 640, 2560, (853, 640)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((300, 1000), 800, 1333, (400, 1333)),
        ((1, 5000), 640, 640, (1, 640)),
    ],
)
def test_short_edges(size: tuple[int, int], shortest: int, longest: int, expected: tuple[int, int]) -> None:
    assert short_edge_size(size, shortest, longest) == expected


def test_one_size_stands_for_many() -> None:
    def sizes(given: list[int]) -> list[int]:
        return usual(target_size=None, min_sizes=given, max_size=2560, crop_size=(64, 64)).min_sizes

    assert sizes([640]) == list(range(320, 1344, 64))
    assert sizes([640, 700]) == [640, 700]


def test_a_crop_avoids_one_class_over_most_of_it() -> None:
    """A scene of two halves and a seam: crops fall on the seam far more often than by chance."""
    classes = np.ones((64, 256), int)
    classes[:, 128:] = 2
    image = np.zeros((64, 256, 3), np.uint8)
    change = usual(target_size=None, min_sizes=[64, 64], max_size=400, crop_size=(64, 64))
    mixed = 0
    for seed in range(40):
        np.random.seed(seed)
        _, regions = change(image, map_of(classes))
        areas = regions.areas()
        mixed += areas.max() < 0.6 * areas.sum()
    # one try falls on it with probability 12 / 193, ten tries with 0.47
    assert 10 <= mixed <= 30
    unlabelled = np.zeros((64, 256), int)
    _, regions = change(image, map_of(unlabelled))
    assert regions.size == (64, 64)


@pytest.mark.parametrize("build", [map_of, masks_of])
def test_areas_by_class(build: Any) -> None:
    classes = RNG.integers(0, 4, (20, 30))
    regions = build(classes)
    regions.labels[:] = [1, 0, 1]
    areas = regions.class_areas(Window((40, 60), 10, 20, (16, 8)))
    part = classes[5:13, 10:14]
    assert areas.tolist() == [(part == 2).sum(), np.isin(part, [1, 3]).sum()]


def test_eval_sizes() -> None:
    image, classes = scene()
    seen, regions = EvalSize(target_size=None, min_size=64, max_size=80)(image, map_of(classes))
    assert seen.shape == (53, 80, 3)
    assert regions.size == (53, 80)
    seen, _ = EvalSize(target_size=(96, 32), min_size=64, max_size=80)(image, map_of(classes))
    assert seen.shape == (96, 32, 3)


def jitter(values: list[float], image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The colour jitter with given draws: five chances, four amounts."""
    draws = iter([np.array(values[:5]), np.array(values[5:])])
    monkeypatch.setattr(np.random, "rand", lambda *shape: next(draws))
    return color_jitter(image)


NO, YES = 0.9, 0.1


def test_colours_in_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    image = RNG.integers(40, 200, (5, 6, 3), dtype=np.uint8)
    as_it_is = jitter([NO] * 5 + [0.5] * 4, image, monkeypatch)
    assert np.array_equal(as_it_is, image)
    brighter = jitter([YES, NO, NO, NO, NO, 1.0, 0.5, 0.5, 0.5], image, monkeypatch)
    assert np.array_equal(brighter, image + 32)
    darker = jitter([YES, NO, NO, NO, NO, 0.0, 0.5, 0.5, 0.5], image, monkeypatch)
    assert np.array_equal(darker, image - 32)
    contrast = jitter([NO, YES, NO, NO, NO, 0.5, 1.0, 0.5, 0.5], image, monkeypatch)
    assert np.array_equal(contrast, np.rint(image * 1.5).clip(0, 255))
    assert np.array_equal(jitter([NO, YES, NO, NO, YES, 0.5, 1.0, 0.5, 0.5], image, monkeypatch), contrast)
    grey = np.repeat(image[..., :1], 3, axis=2)
    turned = jitter([NO, NO, YES, YES, NO, 0.5, 0.5, 0.2, 0.9], grey, monkeypatch)
    assert np.array_equal(turned, grey)  # grey has neither hue nor saturation
    red = np.full((1, 1, 3), [200, 0, 0], np.uint8)
    assert jitter([NO, NO, NO, YES, NO, 0.5, 0.5, 0.5, 1.0], red, monkeypatch).tolist() == [[[200, 120, 0]]]
    assert jitter([NO, NO, YES, NO, NO, 0.5, 0.5, 0.0, 0.5], red, monkeypatch)[0, 0, 1] == pytest.approx(
        100, abs=1
    )


def test_every_colour_change_happens_half_of_the_time() -> None:
    image = np.full((2, 2, 3), [90, 130, 60], np.uint8)
    np.random.seed(0)
    same = sum(np.array_equal(color_jitter(image), image) for _ in range(400))
    assert 8 <= same <= 50  # 1 in 16, and small changes that round to nothing


def test_the_same_seed_gives_the_same_sample() -> None:
    image, classes = scene()
    change = usual(target_size=None, min_sizes=[64], max_size=400, crop_size=(32, 32))
    results = []
    for seed in (5, 5, 6):
        np.random.seed(seed)
        results.append(change(image, map_of(classes)))
    assert np.array_equal(results[0][0], results[1][0])
    assert np.array_equal(results[0][1].numbers, results[1][1].numbers)
    assert results[0][0].shape != results[2][0].shape or not np.array_equal(results[0][0], results[2][0])


def test_flips_and_colours_can_be_turned_off() -> None:
    image, classes = scene()
    size = image.shape[:2]
    whole = partial(
        TrainAugment, target_size=size, min_sizes=[min(size)] * 2, max_size=400, crop_size=size, jitter=False
    )
    for _ in range(8):
        assert np.array_equal(whole(flip_prob=0.0)(image, map_of(classes))[0], image)
    assert np.array_equal(whole(flip_prob=1.0)(image, map_of(classes))[0], image[:, ::-1])
