"""Boxes, cylinders and balls: where rays meet them, and how far a point is from their surface.

Letters: `N` rays or points; coordinates come first, (3, N), so that each is one piece of memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skillbank_models.nvpanoptix3d.rooms.paints import Paint

__all__ = [
    "Solid",
    "ball",
    "box",
    "corners",
    "cylinder",
    "entry",
    "leaving",
    "local",
    "normals",
    "signed_distance",
]

Reals = NDArray[np.float32]
Vector = NDArray[np.float64]

_TINY = np.float32(1e-9)  # keeps a ray parallel to a face from dividing by zero


_SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])


@dataclass(frozen=True, slots=True, eq=False)
class Solid:
    """A convex body.

    Attributes:
        shape: what it is; a cylinder stands along its own third axis.
        center: (3,), in some frame.
        axes: (3, 3), its own axes as columns, in that frame.
        half: (3,) half of its extent along its own axes.
        paint: of its surface.
    """

    shape: Literal["box", "cylinder", "ball"]
    center: Vector
    axes: Vector
    half: Vector
    paint: Paint

    def moved(self, rotation: Vector, shift: Vector) -> Solid:
        """The solid in the frame where a point x is ``rotation @ x + shift``."""
        return replace(self, center=rotation @ self.center + shift, axes=rotation @ self.axes)

    def scaled(self, factor: float, shift: Vector) -> Solid:
        """The solid in the frame where a point x is ``factor * x + shift``."""
        return replace(self, center=factor * self.center + shift, half=factor * self.half)


def box(low: tuple[float, float, float], high: tuple[float, float, float], paint: Paint) -> Solid:
    """A box between two corners."""
    least, most = np.array(low, np.float64), np.array(high, np.float64)
    return Solid("box", (least + most) / 2, np.eye(3), (most - least) / 2, paint)


def cylinder(x: float, y: float, radius: float, low: float, high: float, paint: Paint) -> Solid:
    """An upright cylinder between two heights."""
    center, half = np.array([x, y, (low + high) / 2]), np.array([radius, radius, (high - low) / 2])
    return Solid("cylinder", center, np.eye(3), half, paint)


def ball(x: float, y: float, z: float, radius: float, paint: Paint) -> Solid:
    """A ball."""
    return Solid("ball", np.array([x, y, z]), np.eye(3), np.full(3, radius), paint)


def corners(solid: Solid) -> Vector:
    """Corners of the box around a solid, along its own axes, (8, 3)."""
    found: Vector = solid.center + (_SIGNS * solid.half) @ solid.axes.T
    return found


def local(solid: Solid, points: Reals) -> Reals:
    """Points (3, N) in the solid's own frame, (3, N)."""
    center, axes = solid.center.astype(np.float32), solid.axes.astype(np.float32)
    x, y, z = (points[axis] - center[axis] for axis in range(3))
    return np.stack([axes[0, own] * x + axes[1, own] * y + axes[2, own] * z for own in range(3)])  # (3, N)


def entry(solid: Solid, origin: Vector, rays: Reals) -> Reals:
    """Where rays go into a solid.

    Args:
        origin: (3,), where all rays begin.
        rays: (3, N) directions, of any length.

    Returns:
        (N,) in lengths of the ray; infinite where it misses, or where the origin is inside.
    """
    begin, end = _crossing(solid, origin, rays)
    return np.where((begin < end) & (begin > 0), begin, np.float32(np.inf))


def leaving(solid: Solid, origin: Vector, rays: Reals) -> tuple[Reals, NDArray[np.int8]]:
    """Where rays that begin inside a box go out, (N,), and by which face: 0..5 = -x, +x, -y, +y, -z, +z."""
    start, ways = _own(solid, origin, rays)
    outs = np.stack([_slab(start[axis], ways[axis], solid.half[axis])[1] for axis in range(3)])  # (3, N)
    axis = outs.argmin(0)
    positive = np.take_along_axis(np.stack(ways), axis[None], 0)[0] > 0
    return outs.min(0), (2 * axis + positive).astype(np.int8)


def normals(solid: Solid, own: Reals) -> Reals:
    """Outward normals (3, N) at points (3, N) of the surface; both in the solid's own frame."""
    half = solid.half.astype(np.float32)
    if solid.shape == "ball":
        return np.asarray(own / half[0])
    if solid.shape == "cylinder":
        found: Reals = own / half[0]  # (3, N)
        on_cap = np.abs(own[2]) - half[2] > np.hypot(own[0], own[1]) - half[0]
        found[:2, on_cap] = 0
        found[2] = np.where(on_cap, np.sign(own[2]), np.float32(0))
        return found
    axis = (np.abs(own) - half[:, None]).argmax(0)  # (N,)
    found = np.zeros_like(own)
    columns = np.arange(own.shape[1])
    found[axis, columns] = np.sign(own[axis, columns])
    return found


def signed_distance(solid: Solid, x: Reals, y: Reals, z: Reals) -> Reals:
    """Exact distance to the surface, negative inside.

    Args:
        solid: in the frame of the points.
        x: coordinates that broadcast with `y` and `z`, such as (X, 1, 1), (1, Y, 1) and (1, 1, Z).
    """
    center, axes, half = (part.astype(np.float32) for part in (solid.center, solid.axes, solid.half))
    x, y, z = x - center[0], y - center[1], z - center[2]
    u, v, w = (axes[0, own] * x + axes[1, own] * y + axes[2, own] * z for own in range(3))
    zero = np.float32(0)
    if solid.shape == "ball":
        return np.asarray(np.sqrt(u * u + v * v + w * w) - half[0])
    w = np.abs(w) - half[2]
    if solid.shape == "cylinder":
        around = np.hypot(u, v) - half[0]
        outside = np.hypot(np.maximum(around, zero), np.maximum(w, zero))
        return np.asarray(outside + np.minimum(np.maximum(around, w), zero))
    u, v = np.abs(u) - half[0], np.abs(v) - half[1]
    inside = np.minimum(np.maximum(np.maximum(u, v), w), zero)
    for extent in (u, v, w):
        np.maximum(extent, zero, out=extent)
        extent *= extent
    u += v + w
    return np.asarray(np.sqrt(u) + inside)


def _crossing(solid: Solid, origin: Vector, rays: Reals) -> tuple[Reals, Reals]:
    """Where rays go in and out; out before in where they miss."""
    start, ways = _own(solid, origin, rays)
    if solid.shape == "box":
        begin, end = _slab(start[0], ways[0], solid.half[0])
        for axis in (1, 2):
            first, last = _slab(start[axis], ways[axis], solid.half[axis])
            begin, end = np.maximum(begin, first), np.minimum(end, last)
        return begin, end
    count = 2 if solid.shape == "cylinder" else 3
    square = sum((ways[axis] * ways[axis] for axis in range(count)), start=np.float32(0)) + _TINY
    toward = sum((np.float32(start[axis]) * ways[axis] for axis in range(count)), start=np.float32(0))
    rest = np.float32((start[:count] ** 2).sum() - solid.half[0] ** 2)
    under = toward * toward - square * rest
    root = np.sqrt(np.maximum(under, 0))
    begin, end = (-toward - root) / square, (-toward + root) / square
    if count == 2:
        first, last = _slab(start[2], ways[2], solid.half[2])
        begin, end = np.maximum(begin, first), np.minimum(end, last)
    return np.where(under > 0, begin, np.float32(np.inf)), end


def _own(solid: Solid, origin: Vector, rays: Reals) -> tuple[Vector, list[Reals]]:
    """Origin and rays in the solid's own frame."""
    axes = solid.axes.astype(np.float32)
    ways = [axes[0, own] * rays[0] + axes[1, own] * rays[1] + axes[2, own] * rays[2] for own in range(3)]
    return (origin - solid.center) @ solid.axes, ways


def _slab(start: Any, way: Reals, half: Any) -> tuple[Reals, Reals]:
    """Where rays pass between two parallel planes."""
    inverse = 1 / (way + _TINY)
    one, other = np.float32(-half - start) * inverse, np.float32(half - start) * inverse
    return np.minimum(one, other), np.maximum(one, other)
