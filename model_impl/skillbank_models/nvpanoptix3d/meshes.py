"""Surfaces of a predicted room: marching cubes on the distance volume, one part for each segment.

Axes: camera coordinates, x right, y down, z forward, metres; volume axis 0 = x, 1 = y, 2 = z.
Letters: `G` side of the grid, `V` vertices, `F` faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skillbank.errors import RuntimeMissingError
from skillbank_models.nvpanoptix3d.camera import View
from skillbank_models.nvpanoptix3d.mesh_borders import cut_at_borders
from skillbank_models.nvpanoptix3d.outputs import Scene
from skillbank_models.nvpanoptix3d.scene_segments import UNASSIGNED, ShownSegment

__all__ = ["ISO", "MeshPart", "SceneMesh", "require_mesh_packages", "surface_of"]

ISO = 1.25  # voxels; an unsigned distance has no zero, so the surface is a sheet of twice this thickness
REACH = 2.0  # voxels from a vertex to the voxel that lends it its segment
MARGIN = 2  # voxels around the surface that marching cubes sees


@dataclass(frozen=True, slots=True)
class MeshPart:
    """The surface of one segment.

    Attributes:
        segment: what it belongs to; None = no segment.
        vertices: range in the vertices of the mesh.
        faces: range in the faces of the mesh.
    """

    segment: ShownSegment | None
    vertices: slice
    faces: slice

    @property
    def name(self) -> str:
        """Name of the segment."""
        return self.segment.name if self.segment is not None else "unassigned"

    @property
    def color(self) -> tuple[int, int, int]:
        """R, G, B of the segment."""
        return self.segment.color if self.segment is not None else UNASSIGNED


@dataclass(frozen=True, slots=True)
class SceneMesh:
    """Triangles of a room, sorted by segment; no vertex belongs to two segments.

    Attributes:
        vertices: (V, 3) float32, metres in camera coordinates.
        normals: (V, 3) float32, unit vectors away from the surface.
        faces: (F, 3) int32 vertices, counter-clockwise seen from outside.
        parts: without a gap, in the order of vertices and faces.
    """

    vertices: NDArray[np.float32]
    normals: NDArray[np.float32]
    faces: NDArray[np.int32]
    parts: list[MeshPart]

    def colors(self) -> NDArray[np.uint8]:
        """(V, 3) R, G, B of each vertex."""
        counts = [part.vertices.stop - part.vertices.start for part in self.parts]
        return np.repeat(np.array([part.color for part in self.parts], np.uint8), counts, axis=0)


def require_mesh_packages() -> None:
    """Refuse early where what makes meshes is missing.

    Raises:
        RuntimeMissingError: says how to get it.
    """
    if find_spec("skimage") is None:
        raise RuntimeMissingError(
            "meshes need scikit-image, which is not installed",
            hint="pip install -c constraints.txt 'skillbank[runtime]', or -o inference.meshes=false",
            key="inference.meshes",
        )


def surface_of(
    scene: Scene, view: View, segments: Sequence[ShownSegment], *, iso: float = ISO
) -> SceneMesh | None:
    """The surface of a scene's volume; None where the volume is empty or absent.

    Args:
        scene: volumes of side G.
        view: where the camera is in that grid.
        segments: of the volume.
        iso: distance from the predicted surface at which the mesh runs, voxels.

    Raises:
        RuntimeMissingError: scikit-image is not installed.
    """
    if scene.geometry is None or scene.panoptic_volume is None:
        return None
    require_mesh_packages()
    marching_cubes = import_module("skimage.measure").marching_cubes
    box = _box(scene.geometry, iso)
    if box is None:
        return None
    # A wall of far voxels around the box closes surfaces that leave the grid.
    inner = scene.geometry[box]
    distance = np.pad(inner, 1, constant_values=max(2 * iso, float(inner.max())))
    # its normals point to lower values; "descent" turns faces so that lower values are inside
    points, faces, normals, _ = marching_cubes(distance, iso, gradient_direction="descent")
    points = points - 1 + [side.start for side in box]  # (V, 3) voxels of the grid
    owners = _owners(points, scene.geometry, scene.panoptic_volume, iso)  # (V,)
    owners = np.where(np.isin(owners, [segment.id for segment in segments]), owners, 0)
    attributes = np.concatenate([points, -normals], axis=1)  # (V, 6)
    new_faces, face_owners, attributes = cut_at_borders(faces.astype(np.int64), owners, attributes)
    vertices = ((attributes[:, :3] - view.origin) * view.grid.voxel).astype(np.float32)  # (V', 3)
    return _parted(vertices, _unit(attributes[:, 3:]), new_faces, face_owners, segments)


def _box(geometry: NDArray[np.float32], iso: float) -> tuple[slice, slice, slice] | None:
    """The part of the volume with a surface in it; None where there is none."""
    near = geometry < iso  # (G, G, G)
    sides = []
    for others in ((1, 2), (0, 2), (0, 1)):
        places = np.flatnonzero(near.any(axis=others))
        if not places.size:
            return None
        sides.append(slice(max(int(places[0]) - MARGIN, 0), int(places[-1]) + MARGIN + 1))
    return sides[0], sides[1], sides[2]


def _owners(
    points: NDArray[np.float64], geometry: NDArray[np.float32], volume: NDArray[np.int32], iso: float
) -> NDArray[np.int64]:
    """Segment of each point (V, 3): that of its voxel, else of the nearest surface voxel that has one."""
    own = np.rint(points).astype(np.int64).clip(0, np.array(volume.shape) - 1)  # (V, 3)
    owners: NDArray[np.int64] = volume[tuple(own.T)].astype(np.int64)  # (V,)
    lost = np.flatnonzero(owners == 0)
    lenders = np.argwhere((geometry < iso) & (volume > 0))  # (N, 3)
    if lost.size and lenders.size:
        away, nearest = cKDTree(lenders).query(points[lost], distance_upper_bound=REACH)
        found = np.isfinite(away)
        owners[lost[found]] = volume[tuple(lenders[nearest[found]].T)]
    return owners


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)  # (V, 1)
    return np.asarray(vectors / np.maximum(length, 1e-12), np.float32)


def _parted(
    vertices: NDArray[np.float32],
    normals: NDArray[np.float32],
    faces: NDArray[np.int64],
    face_owners: NDArray[np.int64],
    segments: Sequence[ShownSegment],
) -> SceneMesh:
    """Faces by segment, each with vertices of its own, those in the order in which faces use them."""
    known = {segment.id: segment for segment in segments}
    sorted_by = np.where(face_owners > 0, face_owners, np.iinfo(np.int64).max)  # (F,) the unassigned last
    order = np.argsort(sorted_by, kind="stable")
    owners, starts = np.unique(sorted_by[order], return_index=True)
    place = np.searchsorted(owners, sorted_by[order])  # (F,)
    keys = (place[:, None] * len(vertices) + faces[order]).ravel()  # (3 F,)
    unique, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    by_use = np.argsort(first)
    rank = np.empty_like(by_use)
    rank[by_use] = np.arange(by_use.size)
    sources = unique[by_use] % len(vertices)  # (V,)
    vertex_starts = np.searchsorted(unique[by_use] // len(vertices), np.arange(owners.size))
    face_ends, vertex_ends = [*starts[1:], len(faces)], [*vertex_starts[1:], sources.size]
    parts = [
        MeshPart(known.get(int(owner)), slice(int(v0), int(v1)), slice(int(f0), int(f1)))
        for owner, v0, v1, f0, f1 in zip(owners, vertex_starts, vertex_ends, starts, face_ends, strict=True)
    ]
    new_faces = rank[inverse].reshape(-1, 3).astype(np.int32)  # (F, 3)
    return SceneMesh(vertices[sources], normals[sources], new_faces, parts)
