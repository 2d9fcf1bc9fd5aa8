"""Colour and light: from surfaces along rays to a picture.

Letters: `H W` image, `N` points; coordinates and colour channels come first. Everything is in the camera's
frame, metres.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from skillbank_models.nvpanoptix3d.camera import Camera
from skillbank_models.nvpanoptix3d.rooms.paints import Paint, colors_at
from skillbank_models.nvpanoptix3d.rooms.sight import Scenery, Sight, look, pixel_rays
from skillbank_models.nvpanoptix3d.rooms.solids import entry, local, normals

__all__ = ["photograph"]

Reals = NDArray[np.float32]

_SAMPLES = ((-0.25, -0.25), (0.25, 0.25))  # places in a pixel; each sees another point of every lamp
_GAMMA = 2.2
_EXPOSURE = 0.62  # of the mean, in white paper in plain light
_WHITE = 2.2  # light that is shown as white
_SURFACE = 0.985  # of the way from a lamp to a surface; what lies behind that is the surface itself
_FALLOFF_M = 1.6  # a lamp this far away gives half of its light
_REACHES_M = (0.1, 0.3)  # what is nearer than this to a surface keeps light from it
_LAMP = 8  # class; lit shades throw no shadow


def photograph(
    scenery: Scenery,
    camera: Camera,
    center: Sight,
    distance_at: Callable[[Reals], Reals],
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """A picture, (H, W, 3) RGB.

    Args:
        center: what the middle of each pixel shows.
        distance_at: distance of points (3, N) to the nearest surface, metres, as far as it is known.
    """
    dark = _nearness(scenery, center, pixel_rays(camera), distance_at)
    total = np.zeros((3, camera.height, camera.width), np.float32)
    for sample in _SAMPLES:
        rays = pixel_rays(camera, sample)
        total += _lit(scenery, look(scenery, camera, rays), rays, dark, rng)
    total /= len(_SAMPLES)  # (3, H, W)
    total *= min(rng.uniform(0.85, 1.1) * _EXPOSURE / max(float(np.sqrt(total).mean()) ** 2, 1e-3), 2.5)
    total *= (1 + total / _WHITE**2) / (1 + total)  # bright parts fade to white softly
    picture = np.clip(total, 0, 1) ** (1 / _GAMMA)
    picture += rng.normal(0, 0.006, picture.shape[1:])  # as a sensor has it
    found: NDArray[np.uint8] = np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(found)  # (H, W, 3)


def _nearness(scenery: Scenery, sight: Sight, rays: Reals, distance_at: Callable[[Reals], Reals]) -> Reals:
    """How open the space before a surface is, (H, W): 1 where nothing is near, 0 in a corner."""
    points = (rays * sight.depth).reshape(3, -1)
    facing = _surface(scenery, sight, points)[1]
    found = np.zeros(points.shape[1], np.float32)
    for reach in _REACHES_M:
        found += np.clip(distance_at(points + np.float32(reach) * facing) / reach, 0, 1)
    found /= len(_REACHES_M)
    return found.reshape(sight.depth.shape)  # (H, W)


def _lit(scenery: Scenery, sight: Sight, rays: Reals, dark: Reals, rng: np.random.Generator) -> Reals:
    """Light that comes from each pixel, (3, H, W)."""
    points = (rays * sight.depth).reshape(3, -1)
    colors, facing, glow = _surface(scenery, sight, points)
    openness = dark.reshape(-1)
    ambient = np.array(scenery.room.shell.ambient, np.float32)[:, None]
    arriving = ambient * (0.25 + 0.75 * openness)  # (3, N)
    for light in scenery.lights:
        place = light.place + rng.normal(0, light.radius / 2, 3)
        way = place.astype(np.float32)[:, None] - points  # (3, N)
        away = np.sqrt((way * way).sum(0))
        slope = np.maximum((way * facing).sum(0) / away, 0) * (0.6 + 0.4 * openness)
        strength = slope / (1 + (away / _FALLOFF_M) ** 2)
        strength[_shadowed(scenery, place, points, strength > 1e-3)] = 0
        arriving += np.array(light.color, np.float32)[:, None] * strength
    found: Reals = colors * (arriving * (1 - np.minimum(glow, 1)) + 1.6 * glow)
    return found.reshape(rays.shape)  # (3, H, W)


def _shadowed(
    scenery: Scenery, place: NDArray[np.float64], points: Reals, wanted: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which points a piece of furniture keeps the light of a lamp from, (N,)."""
    rays = points - place.astype(np.float32)[:, None]  # (3, N), from the lamp
    lengths = (rays * rays).sum(0)
    found = np.zeros(points.shape[1], np.bool_)
    for body in scenery.bodies:
        if body.piece.label == _LAMP:
            continue
        way = body.center - place
        # rays within the cone around the ball that holds the piece
        rest = np.float32(way @ way - body.radius**2)
        toward = sum(np.float32(way[axis]) * rays[axis] for axis in range(3))
        some = np.flatnonzero(wanted & ~found & (toward > 0) & (toward * toward > lengths * rest))
        for solid in body.solids:
            if not some.size:
                break
            hit = entry(solid, place, rays[:, some]) < _SURFACE
            found[some[hit]] = True
            some = some[~hit]
    return found


def _surface(scenery: Scenery, sight: Sight, points: Reals) -> tuple[Reals, Reals, Reals]:
    """Linear colour (3, N), normal (3, N) and glow (N,) of the surface at points."""
    colors, facing = np.empty_like(points), np.empty_like(points)
    glow = np.zeros(points.shape[1], np.float32)
    for body, part, here in _groups(sight):
        if body < 0:
            colors[:, here], glow[here], facing[:, here] = _wall(scenery, -1 - body, points[:, here])
            continue
        solid = scenery.bodies[body].solids[part]
        own = local(solid, points[:, here])
        normal = normals(solid, own)
        colors[:, here] = colors_at(solid.paint, own, normal, solid.half.astype(np.float32))
        facing[:, here] = solid.axes.astype(np.float32) @ normal
        glow[here] = solid.paint.glow
    return np.clip(colors, 0, 1) ** np.float32(_GAMMA), facing, glow


def _groups(sight: Sight) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """Pixels of each surface."""
    keys = (sight.body.astype(np.int32).reshape(-1) << 8) + sight.part.reshape(-1)
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    starts = np.flatnonzero(np.r_[True, sorted_keys[1:] != sorted_keys[:-1]])
    for start, end in zip(starts, np.r_[starts[1:], len(keys)], strict=True):
        key = int(sorted_keys[start])
        yield key >> 8, key & 255, order[start:end]


def _wall(scenery: Scenery, face: int, points: Reals) -> tuple[Reals, Reals, Reals]:
    """Colour (3, N), glow (N,) and normal (3, 1) of a face of the room, with what is painted on it."""
    solid, shell = scenery.shell, scenery.room.shell
    own = local(solid, points)
    axis = face // 2
    inward = np.zeros((3, 1), np.float32)
    inward[axis] = 1 if face % 2 == 0 else -1
    half = solid.half.astype(np.float32)
    colors = colors_at(shell.paints[face], own, np.broadcast_to(inward, own.shape), half)
    glow = np.zeros(points.shape[1], np.float32)
    across, up = (own[0], own[1]) if axis == 2 else (own[1 - axis], own[2])
    for decal in shell.decals:
        if decal.face != face:
            continue
        flat = np.stack([across - np.float32(decal.middle[0]), up - np.float32(decal.middle[1])])
        here = np.flatnonzero((np.abs(flat[0]) < decal.half[0]) & (np.abs(flat[1]) < decal.half[1]))
        if here.size:
            colors[:, here], glow[here] = _decal(decal.paint, flat[:, here], decal.half)
    return colors, glow, solid.axes.astype(np.float32) @ inward


def _decal(pattern: Paint, flat: Reals, half: tuple[float, float]) -> tuple[Reals, Reals]:
    own = np.stack([flat[0], np.zeros_like(flat[0]), flat[1]])
    front = np.broadcast_to(np.array([[0], [1], [0]], np.float32), own.shape)
    colors = colors_at(pattern, own, front, np.array([half[0], 0, half[1]], np.float32))
    return colors, np.full(flat.shape[1], pattern.glow, np.float32)
