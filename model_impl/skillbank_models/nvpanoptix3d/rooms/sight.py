"""What a camera in a room sees, by rays: depth along the axis, and which surface it is.

Letters: `H W` image, `N` rays. Everything is in the camera's frame: x right, y down, z forward, metres.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skillbank_models.nvpanoptix3d.camera import Camera
from skillbank_models.nvpanoptix3d.rooms.layout import Piece, Room
from skillbank_models.nvpanoptix3d.rooms.shell import Light
from skillbank_models.nvpanoptix3d.rooms.solids import Solid, corners, entry, leaving

__all__ = ["Body", "Pose", "Scenery", "Sight", "look", "pixel_rays", "posed"]

Reals = NDArray[np.float32]
Vector = NDArray[np.float64]

_EYE = np.zeros(3)
_NEAR = 0.05  # metres; the box around a solid is not projected when it comes nearer than this


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """A camera in a room: a point x of the room is ``rotation @ (x - place)`` for the camera."""

    place: Vector
    rotation: Vector

    @staticmethod
    def looking(place: Vector, yaw: float, pitch: float) -> Pose:
        """Level across the image, turned by `yaw` around z and `pitch` radians down."""
        forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        return Pose(place, np.stack([right, np.cross(forward, right), forward]))


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """A piece of furniture.

    Attributes:
        piece: as it stands in the room.
        solids: its parts, for the camera.
        center: (3,) of a ball around it.
        radius: of that ball.
    """

    piece: Piece
    solids: tuple[Solid, ...]
    center: Vector
    radius: float


@dataclass(frozen=True, slots=True, eq=False)
class Scenery:
    """A room as the camera has it before it.

    Attributes:
        room: as it is.
        shell: inside of the walls, as a box.
        bodies: the furniture.
        lights: the lamps.
    """

    room: Room
    shell: Solid
    bodies: tuple[Body, ...]
    lights: tuple[Light, ...]


@dataclass(slots=True)
class Sight:
    """What is seen along rays.

    Attributes:
        depth: (H, W) metres along the axis.
        body: (H, W) int16, number of the piece; -1 - face of the room where there is none.
        part: (H, W) int16, number of its solid.
    """

    depth: Reals
    body: NDArray[np.int16]
    part: NDArray[np.int16]


def posed(room: Room, pose: Pose) -> Scenery:
    """The room in the camera's frame."""
    shift = -pose.rotation @ pose.place
    bodies = []
    for piece in room.pieces:
        solids = tuple(solid.moved(pose.rotation, shift) for solid in piece.solids)
        center = pose.rotation @ ((piece.low + piece.high) / 2) + shift
        bodies.append(Body(piece, solids, center, float(np.linalg.norm(piece.high - piece.low) / 2)))
    lights = tuple(light.moved(pose.rotation, shift) for light in room.shell.lights)
    return Scenery(room, room.shell.solid().moved(pose.rotation, shift), tuple(bodies), lights)


def pixel_rays(camera: Camera, offset: tuple[float, float] = (0.0, 0.0)) -> Reals:
    """Rays through the middle of each pixel, moved by a part of a pixel; 1 along the axis, (3, H, W)."""
    across = (np.arange(camera.width) + offset[0] - camera.cx) / camera.fx
    down = (np.arange(camera.height) + offset[1] - camera.cy) / camera.fy
    rays = np.ones((3, camera.height, camera.width), np.float32)
    rays[0], rays[1] = across, down[:, None]
    return rays


def look(scenery: Scenery, camera: Camera, rays: Reals) -> Sight:
    """The first surface along each ray.

    Args:
        rays: (3, H, W) from `pixel_rays`.
    """
    flat = rays.reshape(3, -1)
    out, face = leaving(scenery.shell, _EYE, flat)
    size = rays.shape[1:]
    depth = out.reshape(size)
    body = (-1 - face.astype(np.int16)).reshape(size)
    part = np.zeros(size, np.int16)
    for number, place, solid in _parts(scenery.bodies):
        window = _window(solid, camera)
        if window is None:
            continue
        inside = rays[(slice(None), *window)]
        found = entry(solid, _EYE, inside.reshape(3, -1)).reshape(inside.shape[1:])
        nearer = found < depth[window]
        depth[window][nearer] = found[nearer]
        body[window][nearer] = number
        part[window][nearer] = place
    return Sight(depth, body, part)


def _parts(bodies: Sequence[Body]) -> Iterator[tuple[int, int, Solid]]:
    for number, body in enumerate(bodies):
        for place, solid in enumerate(body.solids):
            yield number, place, solid


def _window(solid: Solid, camera: Camera) -> tuple[slice, slice] | None:
    """Rows and columns that can show a solid; None where none can."""
    points = corners(solid)
    if (points[:, 2] <= _NEAR).all():
        return None
    if (points[:, 2] <= _NEAR).any():
        return slice(0, camera.height), slice(0, camera.width)
    across = camera.fx * points[:, 0] / points[:, 2] + camera.cx
    down = camera.fy * points[:, 1] / points[:, 2] + camera.cy
    # a pixel more on each side, as rays may be moved within their pixel
    left, right = max(int(across.min()) - 1, 0), min(int(np.ceil(across.max())) + 2, camera.width)
    top, bottom = max(int(down.min()) - 1, 0), min(int(np.ceil(down.max())) + 2, camera.height)
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None
