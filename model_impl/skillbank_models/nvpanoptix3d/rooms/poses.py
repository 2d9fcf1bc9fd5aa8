"""Where a camera stands in a room, so that the picture shows much of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from skillbank_models.nvpanoptix3d.camera import Camera
from skillbank_models.nvpanoptix3d.rooms.layout import Room
from skillbank_models.nvpanoptix3d.rooms.sight import Pose, Scenery, Sight, look, pixel_rays, posed

__all__ = ["Shot", "take_shot"]

_CANDIDATES = 14
_COARSE = 40  # pixels across, of the picture that decides
_NEAREST_M, _FARTHEST_M = 0.45, 5.9  # depths that are surely inside the frustum of 0.4 to 6 m
_LEAST_IN = 0.991  # of the pixels
_WALL_GAP_M = 0.3
_BODY_GAP_M = 0.25
_ATTEMPTS = 20


class Shot:
    """A picture to be taken: pose, scenery and what the middles of the pixels show."""

    __slots__ = ("pose", "scenery", "sight")

    def __init__(self, pose: Pose, scenery: Scenery, sight: Sight) -> None:
        self.pose = pose
        self.scenery = scenery
        self.sight = sight


def take_shot(
    rng: np.random.Generator, room: Room, camera: Camera, share_in: Callable[[Sight], float]
) -> Shot:
    """The best of some random poses whose depths are all inside the frustum.

    Args:
        share_in: share of the pixels whose surface is in a voxel of the frustum. At the border of the picture
            it may be in the voxel beside, the more so the nearer it is.
    """
    spare: Shot | None = None
    for attempt in range(_ATTEMPTS):
        poses = [_random_pose(rng, room, attempt) for _ in range(_CANDIDATES)]
        scored = sorted(
            ((_score(room, pose, camera), place) for place, pose in enumerate(poses)), reverse=True
        )
        for score, place in scored:
            if score < 0:
                break
            scenery = posed(room, poses[place])
            sight = look(scenery, camera, pixel_rays(camera))
            if sight.depth.min() > _NEAREST_M and sight.depth.max() < _FARTHEST_M:
                shot = Shot(poses[place], scenery, sight)
                if share_in(sight) >= _LEAST_IN:
                    return shot
                spare = spare or shot
    if spare is not None:
        return spare
    raise AssertionError("no camera pose fits the room")  # a room of 3.2 to 4.2 m always has one


def _random_pose(rng: np.random.Generator, room: Room, attempt: int) -> Pose:
    """In the outer part of the room, looking across it at furniture."""
    size = np.array(room.shell.size)
    place = np.array([*(rng.uniform(_WALL_GAP_M, size[:2] - _WALL_GAP_M)), rng.uniform(1.05, 1.65)])
    if rng.random() < 0.8:  # to one of the walls
        axis, side = int(rng.integers(2)), int(rng.integers(2))
        place[axis] = (
            _WALL_GAP_M + 0.1 * rng.random() if side == 0 else size[axis] - _WALL_GAP_M - 0.1 * rng.random()
        )
    target = size / 2 * [1, 1, 0.6]
    if room.pieces and attempt < _ATTEMPTS - 5:
        piece = room.pieces[int(rng.integers(len(room.pieces)))]
        target = 0.5 * target + 0.5 * (piece.low + piece.high) / 2
    way = target - place
    yaw = float(np.arctan2(way[1], way[0]) + rng.normal(0, 0.12))
    pitch = float(np.arctan2(-way[2], np.hypot(way[0], way[1])) + rng.normal(0, 0.06))
    return Pose.looking(place, yaw, float(np.clip(pitch, -0.08, 0.42)))


def _score(room: Room, pose: Pose, camera: Camera) -> float:
    """How much is to be seen; negative where the camera cannot be."""
    for piece in room.pieces:
        if (pose.place > piece.low - _BODY_GAP_M).all() and (pose.place < piece.high + _BODY_GAP_M).all():
            return -1.0
    coarse = camera.scaled(_COARSE, max(round(_COARSE * camera.height / camera.width), 2))
    scenery = posed(room, pose)
    sight = look(scenery, coarse, pixel_rays(coarse))
    if sight.depth.min() < _NEAREST_M or sight.depth.max() > _FARTHEST_M:
        return -1.0
    numbers, counts = np.unique(sight.body, return_counts=True)
    shares = counts / sight.body.size
    things = numbers >= 0
    seen = float(np.minimum(shares[things], 0.06).sum() / 0.06)
    labels = {scenery.bodies[number].piece.label for number in numbers[things & (shares > 0.008)]}
    crowding = float(max(shares[things].max(initial=0) - 0.35, 0))
    return seen + 0.6 * len(labels) - 8 * crowding + 0.3 * float((sight.depth > 2).mean())
