"""Colours that furniture of a class comes in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skillbank_models.nvpanoptix3d.rooms.paints import Paint, Rgb, paint

__all__ = ["METALS", "choice", "cloth", "hue", "metal", "wood"]

_WOODS: Sequence[Rgb] = (
    (0.62, 0.42, 0.24), (0.45, 0.28, 0.16), (0.76, 0.60, 0.40), (0.30, 0.19, 0.12), (0.84, 0.74, 0.58),
)  # fmt: skip
METALS: Sequence[Rgb] = ((0.12, 0.12, 0.13), (0.55, 0.55, 0.57), (0.72, 0.60, 0.32), (0.88, 0.88, 0.88))


def choice(rng: np.random.Generator, colors: Sequence[Rgb]) -> Rgb:
    """One of some colours."""
    return colors[int(rng.integers(len(colors)))]


def hue(rng: np.random.Generator, degrees: float, spread: float, saturation: float, value: float) -> Rgb:
    """A colour of about that hue."""
    import colorsys

    turned = ((degrees + rng.uniform(-spread, spread)) % 360) / 360
    return colorsys.hsv_to_rgb(
        turned, saturation * rng.uniform(0.75, 1.15), min(value * rng.uniform(0.85, 1.15), 1)
    )


def wood(rng: np.random.Generator, colors: Sequence[Rgb] = _WOODS) -> Paint:
    """Wood of one of some colours."""
    return paint(rng, "wood", choice(rng, colors))


def metal(rng: np.random.Generator) -> Paint:
    """Painted or bare metal."""
    return paint(rng, "plain", choice(rng, METALS))


def cloth(rng: np.random.Generator, color: Rgb, *, patterned: float = 0.3) -> Paint:
    """Fabric, some of it with a pattern.

    Args:
        patterned: share of it that has one.
    """
    if rng.random() >= patterned:
        return paint(rng, "fabric", color)
    light = (0.5 + 0.5 * color[0], 0.5 + 0.5 * color[1], 0.5 + 0.5 * color[2])
    return paint(rng, str(rng.choice(["stripes", "checks", "dots"])), color, light, size=0.07)
