"""A mesh in the few bytes that a page can carry; `viewer.js` reads it.

Positions are steps of a fraction of a voxel, each axis the difference to the vertex before; normals are
points of an octahedron in two bytes; an index is told by how far it is below the vertices seen so far, 0 = a
new one. Each stream is split into planes of low and high bytes, then everything is deflated.
Letters: `V` vertices, `F` faces.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skillbank_models.nvpanoptix3d.meshes import SceneMesh

__all__ = ["packed"]

STEPS = 16  # per voxel; vertices of marching cubes are on edges of voxels, so coarse steps keep walls flat
LEVEL = 6  # 9 takes eight times as long for two percent
MOST_STEPS = 32000  # of a room along an axis, inside 16 bits


def packed(mesh: SceneMesh, voxel: float) -> dict[str, Any]:
    """The mesh as JSON-ready fields.

    Args:
        mesh: in camera coordinates, vertices in the order in which faces use them.
        voxel: edge of a voxel, metres.
    """
    low = mesh.vertices.min(axis=0)
    step = max(voxel / STEPS, float((mesh.vertices.max(axis=0) - low).max()) / MOST_STEPS)
    steps = np.rint((mesh.vertices - low) / step).astype(np.int64)  # (V, 3)
    indices = mesh.faces.astype(np.int64).ravel()  # (3 F,)
    seen = np.concatenate([[0], np.maximum.accumulate(indices)[:-1] + 1])
    streams = [_planes(_zigzag(np.diff(axis, prepend=0)), 2) for axis in steps.T]
    streams += [side.tobytes() for side in _octahedral(mesh.normals).T]
    streams.append(_planes(seen - indices, 4))
    return {
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "origin": [round(float(value), 6) for value in low],
        "step": step,
        "parts": [
            {
                "id": part.segment.id if part.segment is not None else 0,
                "color": list(part.color),
                "class_color": list(part.segment.class_color if part.segment is not None else part.color),
                "faces": [part.faces.start, part.faces.stop],
            }
            for part in mesh.parts
        ],
        "data": base64.b64encode(zlib.compress(b"".join(streams), LEVEL)).decode("ascii"),
    }


def _zigzag(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Small numbers of either sign as small numbers above 0."""
    return np.where(values < 0, -2 * values - 1, 2 * values)


def _planes(values: NDArray[np.int64], width: int) -> bytes:
    """Numbers of `width` bytes, all lowest bytes first."""
    rows = values.astype(f"<u{width}").view(np.uint8).reshape(-1, width)  # (N, width)
    return rows.T.tobytes()


def _octahedral(normals: NDArray[np.float32]) -> NDArray[np.int8]:
    """Unit vectors (V, 3) as points (V, 2) of the unfolded octahedron, -127..127."""
    x, y, z = (normals / np.maximum(np.abs(normals).sum(axis=1, keepdims=True), 1e-12)).T
    below = z < 0
    u = np.where(below, (1 - np.abs(y)) * np.where(x < 0, -1, 1), x)
    v = np.where(below, (1 - np.abs(x)) * np.where(y < 0, -1, 1), y)
    return np.asarray(np.rint(127 * np.stack([u, v], axis=1)), np.int8)
