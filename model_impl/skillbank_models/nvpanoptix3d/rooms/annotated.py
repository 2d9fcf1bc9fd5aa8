"""A picture of a room with everything that is known of its pixels and voxels.

Letters: `H W` image, `G` = 256 voxels per side; axes x right, y down, z forward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skillbank_models.nvpanoptix3d.camera import STORED_SIDE, Camera, Grid, View
from skillbank_models.nvpanoptix3d.frustum import frustum_mask
from skillbank_models.nvpanoptix3d.rooms.layout import Room
from skillbank_models.nvpanoptix3d.rooms.light import photograph
from skillbank_models.nvpanoptix3d.rooms.poses import take_shot
from skillbank_models.nvpanoptix3d.rooms.shell import FACES
from skillbank_models.nvpanoptix3d.rooms.sight import Pose, Scenery, Sight, pixel_rays
from skillbank_models.nvpanoptix3d.rooms.solids import local
from skillbank_models.nvpanoptix3d.rooms.volumes import REACH, Field, measure, probe

__all__ = ["STORED_GRID", "AnnotatedView", "annotate", "first_face_id"]

STORED_GRID = Grid(STORED_SIDE, 0.03, 0.4, 6.0)  # of all public volumes


@dataclass(slots=True)
class AnnotatedView:
    """A picture, and the truth about it.

    Attributes:
        view: camera and grid.
        pose: of the camera in the room.
        picture: (H, W, 3) uint8 RGB.
        depth: (H, W) float32 metres along the axis.
        semantic: (H, W) classes.
        instance: (H, W) ids; each wall, the floor and the ceiling have one too.
        glass: (H, W), pixels of window panes.
        inside: (G, G, G), voxels inside the frustum.
        place: the part of the grid that holds them.
        distance: distances in that part, at most 12 voxels.
        classes: class of the nearest surface, in that part, uint8.
        ids: its instance id, uint8.
        is_solid: in that part, inside furniture or outside the room.
        is_hidden: in that part, behind what the camera sees.
    """

    view: View
    pose: Pose
    picture: NDArray[np.uint8]
    depth: NDArray[np.float32]
    semantic: NDArray[np.uint8]
    instance: NDArray[np.uint8]
    glass: NDArray[np.bool_]
    inside: NDArray[np.bool_]
    place: tuple[slice, slice, slice]
    distance: NDArray[np.float32]
    classes: NDArray[np.uint8]
    ids: NDArray[np.uint8]
    is_solid: NDArray[np.bool_]
    is_hidden: NDArray[np.bool_]


def annotate(rng: np.random.Generator, room: Room, view: View) -> AnnotatedView:
    """Take a picture in a room.

    Furniture that no pixel shows is left out of the volumes, as in the public data.
    """
    inside = frustum_mask(view, "cpu").numpy()
    shot = take_shot(rng, room, view.camera, lambda sight: _share_in(sight, view, inside))
    place = _bounds(inside)
    bodies = [number for number in np.unique(shot.sight.body).tolist() if number >= 0]
    field = measure(shot.scenery, view, place, bodies)
    classes, ids = _tables(shot.scenery)
    return AnnotatedView(
        view=view,
        pose=shot.pose,
        picture=photograph(shot.scenery, view.camera, shot.sight, probe(field, view), rng),
        depth=shot.sight.depth,
        semantic=classes[shot.sight.body],
        instance=ids[shot.sight.body],
        glass=_glass(shot.scenery, view.camera, shot.sight),
        inside=inside,
        place=place,
        distance=np.where(inside[place], field.distance, np.float32(REACH)),
        classes=classes[field.owner],
        ids=ids[field.owner],
        is_solid=field.is_solid,
        is_hidden=_hidden(field, view, shot.sight),
    )


def first_face_id(room: Room) -> int:
    """Instance id of the first wall; furniture has those from 1 to one less."""
    return len(room.pieces) + 1


def _tables(scenery: Scenery) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Class and instance id of pieces, by number, and of faces of the room, from the end: -1 is face 0."""
    labels = [body.piece.label for body in scenery.bodies]
    start = first_face_id(scenery.room)
    faces = range(start, start + len(FACES))
    classes = np.array([*labels, *reversed(FACES)], np.uint8)
    return classes, np.array([*range(1, start), *reversed(faces)], np.uint8)


def _share_in(sight: Sight, view: View, inside: NDArray[np.bool_]) -> float:
    """Share of the pixels whose surface is in a voxel that is inside the frustum."""
    origin = np.array(view.origin, np.float32)[:, None, None]
    places = pixel_rays(view.camera) * (sight.depth / np.float32(view.grid.voxel)) + origin  # (3, H, W)
    x, y, z = np.rint(places).astype(np.int32).clip(0, STORED_SIDE - 1)
    return float(inside[x, y, z].mean())


def _bounds(inside: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """The smallest box that holds all voxels that are inside."""
    across = np.asarray(inside.any(axis=0))  # (G, G), y and z
    used = [
        np.flatnonzero(line) for line in (inside.any(axis=(1, 2)), across.any(axis=1), across.any(axis=0))
    ]
    x, y, z = (slice(int(line[0]), int(line[-1]) + 1) for line in used)
    return x, y, z


def _hidden(field: Field, view: View, sight: Sight) -> NDArray[np.bool_]:
    """Voxels behind what the pixel shows that they project to; the nearest pixel outside the image."""
    camera, place = view.camera, field.place
    x, y, z = (
        (np.arange(part.start, part.stop) - view.origin[axis]) * view.grid.voxel
        for axis, part in enumerate(place)
    )
    columns = (
        np.rint(camera.fx * x[:, None] / z + camera.cx).clip(0, camera.width - 1).astype(np.int32)
    )  # (X, Z)
    rows = (
        np.rint(camera.fy * y[:, None] / z + camera.cy).clip(0, camera.height - 1).astype(np.int32)
    )  # (Y, Z)
    found = np.empty((len(x), len(y), len(z)), np.bool_)
    for number, line in enumerate(columns):
        found[number] = z > sight.depth[rows, line]  # (Y, Z)
    return found


def _glass(scenery: Scenery, camera: Camera, sight: Sight) -> NDArray[np.bool_]:
    """Pixels of windows."""
    found = np.zeros(sight.depth.shape, np.bool_)
    own = local(scenery.shell, (pixel_rays(camera) * sight.depth).reshape(3, -1)).reshape(3, *found.shape)
    for decal in scenery.room.shell.decals:
        if decal.is_glass:
            across = np.abs(own[1 - decal.face // 2] - decal.middle[0]) < decal.half[0]
            up = np.abs(own[2] - decal.middle[1]) < decal.half[1]
            found |= (sight.body == -1 - decal.face) & across & up
    return found
