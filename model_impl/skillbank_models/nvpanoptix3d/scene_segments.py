"""How the segments of a scene are called and coloured: alike in pictures, meshes, files and on the page."""

from __future__ import annotations

import colorsys
from collections import Counter
from dataclasses import replace
from typing import Any, NamedTuple

from skillbank_models.data.categories import Categories
from skillbank_models.data.drawn_regions import instance_color
from skillbank_models.nvpanoptix3d.outputs import Scene, Segment

__all__ = ["UNASSIGNED", "SceneSegments", "ShownSegment", "legible", "scene_segments"]

Rgb = tuple[int, int, int]

UNASSIGNED: Rgb = (158, 160, 164)  # surfaces without a segment
DARKEST, LIGHT_SHARE = (
    0.34,
    0.54,
)  # lightness 0..1 of a class colour becomes DARKEST + LIGHT_SHARE * lightness
MOST_SATURATED = 0.8
WHITE_SHARE = 0.34  # of a colour as dark as black; blues are dark to the eye at any lightness


class ShownSegment(NamedTuple):
    """A segment with its looks.

    Attributes:
        id: its number in the map or the volume.
        label: class.
        class_name: name of the class.
        name: that of the class, numbered where the scene has several things of it.
        is_thing: whether it is one of several of its class.
        score: 0..1.
        color: R, G, B; things of one class differ.
        class_color: R, G, B.
    """

    id: int
    label: int
    class_name: str
    name: str
    is_thing: bool
    score: float
    color: Rgb
    class_color: Rgb

    def as_json(self) -> dict[str, Any]:
        """What result files say of it."""
        return {
            "id": self.id,
            "class_id": self.label,
            "class_name": self.class_name,
            "name": self.name,
            "isthing": int(self.is_thing),
            "score": round(self.score, 6),
            "color": list(self.color),
        }


class SceneSegments(NamedTuple):
    """Segments of both results of a scene; the same query has one name and one colour."""

    image: list[ShownSegment]
    volume: list[ShownSegment]


def legible(categories: Categories) -> Categories:
    """The categories in colours that are light enough to be told apart on shaded surfaces.

    Label maps of street scenes use dark blues that look black there; their order of lightness stays.
    """
    return Categories(
        tuple(
            None if found is None else replace(found, color=_lighter(found.color))
            for found in categories.by_index
        )
    )


def scene_segments(scene: Scene, categories: Categories) -> SceneSegments:
    """Names and colours of all segments of a scene.

    Args:
        scene: both lists of segments; a thing of both is known by its query.
        categories: class -> name and colour.
    """
    numbers: dict[tuple[int, int], int] = {}
    count: Counter[int] = Counter()
    for segment in [*scene.segments, *scene.volume_segments]:
        key = segment.label, segment.query
        if segment.is_thing and key not in numbers:
            numbers[key] = count[segment.label]
            count[segment.label] += 1

    def shown(segment: Segment) -> ShownSegment:
        class_name, color = categories.name(segment.label), categories.color(segment.label)
        number = numbers.get((segment.label, segment.query), 0)
        name = f"{class_name} {number + 1}" if count[segment.label] > 1 and segment.is_thing else class_name
        own = instance_color(color, number) if segment.is_thing else color
        return ShownSegment(
            segment.id, segment.label, class_name, name, segment.is_thing, segment.score, own, color
        )

    return SceneSegments(
        [shown(segment) for segment in scene.segments], [shown(segment) for segment in scene.volume_segments]
    )


def _lighter(color: Rgb) -> Rgb:
    hue, light, saturation = colorsys.rgb_to_hls(*(value / 255 for value in color))
    channels = colorsys.hls_to_rgb(hue, DARKEST + LIGHT_SHARE * light, min(saturation, MOST_SATURATED))
    bright = sum(weight * channel for weight, channel in zip((0.21, 0.72, 0.07), channels, strict=True))
    white = WHITE_SHARE * (1 - bright)
    red, green, blue = (round(255 * (channel + white * (1 - channel))) for channel in channels)
    return red, green, blue
