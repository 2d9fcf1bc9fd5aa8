"""Cutting triangles where two segments meet, so that borders do not follow the teeth of the triangles.

Letters: `V` vertices, `F` faces, `A` attributes, `M` faces with two owners, `T` faces with three.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["cut_at_borders"]

Numbers = NDArray[np.int64]


def cut_at_borders(
    faces: Numbers, owners: Numbers, attributes: NDArray[np.float64]
) -> tuple[Numbers, Numbers, NDArray[np.float64]]:
    """Cut each face whose vertices have different owners through the middle of its edges.

    Args:
        faces: (F, 3) vertices.
        owners: (V,) owner of each vertex.
        attributes: (V, A) what a new vertex takes the mean of.

    Returns:
        The new faces (F', 3), turned as they were; the owner of each; attributes with those of new vertices
        after the old ones.
    """
    corners = owners[faces]  # (F, 3)
    equal = corners == np.roll(corners, -1, axis=1)  # (F, 3) corners k and k + 1
    whole, mixed = equal.all(axis=1), ~equal.any(axis=1)
    halved = ~(whole | mixed)
    odd = (equal[halved].argmax(axis=1) + 2) % 3  # (M,) the corner that has an owner of its own
    turned = np.take_along_axis(faces[halved], (odd[:, None] + np.arange(3)) % 3, axis=1)  # (M, 3)
    three = faces[mixed]  # (T, 3)
    ends = np.concatenate(
        [turned[:, [0, 1]], turned[:, [2, 0]], three[:, [0, 1]], three[:, [1, 2]], three[:, [2, 0]]]
    )
    edges, places = np.unique(np.sort(ends, axis=1), axis=0, return_inverse=True)
    middles = len(owners) + places.ravel()  # vertices
    centres = len(owners) + len(edges) + np.arange(len(three))  # (T,)
    count = len(turned)
    first, last = middles[:count], middles[count : 2 * count]  # (M,)
    sides = middles[2 * count :].reshape(3, -1)  # (3, T)
    parts = [
        (faces[whole], corners[whole, 0]),
        (np.stack([turned[:, 0], first, last], axis=1), owners[turned[:, 0]]),
        (np.stack([first, turned[:, 1], turned[:, 2]], axis=1), owners[turned[:, 1]]),
        (np.stack([first, turned[:, 2], last], axis=1), owners[turned[:, 1]]),
    ]
    for corner in range(3):
        own = three[:, corner]
        parts.append((np.stack([own, sides[corner], centres], axis=1), owners[own]))
        parts.append((np.stack([own, centres, sides[corner - 1]], axis=1), owners[own]))
    added = [attributes[edges].mean(axis=1), attributes[three].mean(axis=1)]
    return (
        np.concatenate([part for part, _ in parts]),
        np.concatenate([owner for _, owner in parts]),
        np.concatenate([attributes, *added]),
    )
