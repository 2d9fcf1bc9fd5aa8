"""Meshes as files: binary PLY in camera coordinates, and GLB as glTF wants it.

PLY: metres, x right, y down, z forward; each vertex has its colour, class and segment. GLB: metres, x right,
y up, the camera at the origin looks along -z; a node for each segment, named, and one for the camera.
Letters: `V` vertices, `F` faces.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skillbank_models.data.result_files import whole_file
from skillbank_models.nvpanoptix3d.camera import Camera
from skillbank_models.nvpanoptix3d.meshes import MeshPart, SceneMesh

__all__ = ["TO_GLTF", "write_glb", "write_ply"]

TO_GLTF = np.array([1.0, -1.0, -1.0], np.float32)  # half a turn about x
_FLOAT, _BYTE, _INT = 5126, 5121, 5125  # component types of glTF
_VERTICES, _INDICES = 34962, 34963  # buffer targets of glTF


def write_ply(path: Path, mesh: SceneMesh) -> None:
    """Write a binary PLY; no segment = class 0 and segment 0.

    Raises:
        StorageError: the file cannot be written.
    """
    vertex = np.dtype(
        [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
        + [(name, "u1") for name in ("red", "green", "blue")]
        + [("class", "<u2"), ("segment", "<i4")]
    )
    kinds = {"<f4": "float", "|u1": "uchar", "<u2": "ushort", "<i4": "int"}
    rows = np.zeros(len(mesh.vertices), vertex)
    columns = np.concatenate([mesh.vertices, mesh.normals, mesh.colors()], axis=1).T  # (9, V)
    for name, column in zip(vertex.names or (), columns, strict=False):
        rows[name] = column
    notes = ["camera coordinates in metres: x right, y down, z forward"]
    for part in mesh.parts:
        if part.segment is not None:
            rows["class"][part.vertices], rows["segment"][part.vertices] = part.segment.label, part.segment.id
            notes.append(f"segment {part.segment.id}: {_ascii(part.name)}, class {part.segment.label}")
    faces = np.zeros(len(mesh.faces), [("count", "u1"), ("vertices", "<i4", 3)])
    faces["count"], faces["vertices"] = 3, mesh.faces
    properties = [f"property {kinds[vertex[name].str]} {name}" for name in vertex.names or ()]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *(f"comment {note}" for note in notes),
        f"element vertex {len(rows)}",
        *properties,
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header\n",
    ]
    with whole_file(path) as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(rows.tobytes())
        file.write(faces.tobytes())


def write_glb(path: Path, mesh: SceneMesh, camera: Camera) -> None:
    """Write a binary glTF 2.0.

    Args:
        path: of the file.
        mesh: in camera coordinates.
        camera: the one that took the image.

    Raises:
        StorageError: the file cannot be written.
    """
    document = _Document()
    white = {
        "name": "surface",
        "doubleSided": True,
        "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.9},
    }
    nodes: list[dict[str, Any]] = [{"name": "photo", "camera": 0}]
    meshes: list[dict[str, Any]] = []
    for part in mesh.parts:
        nodes.append({"name": part.name, "mesh": len(meshes), "extras": _extras(part)})
        meshes.append({"name": part.name, "primitives": [document.primitive(mesh, part)]})
    lens = {
        "yfov": 2 * math.atan(camera.height / (2 * camera.fy)),
        "aspectRatio": camera.width * camera.fy / (camera.height * camera.fx),
        "znear": 0.01,
    }
    content = {
        "asset": {"version": "2.0", "generator": "skillbank NVPanoptix3D"},
        "scene": 0,
        "scenes": [{"name": "room", "nodes": list(range(len(nodes)))}],
        "nodes": nodes,
        "meshes": meshes,
        "cameras": [{"name": "photo", "type": "perspective", "perspective": lens}],
        "materials": [white],
        "accessors": document.accessors,
        "bufferViews": document.views,
        "buffers": [{"byteLength": len(document.data)}],
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    with whole_file(path) as file:
        file.write(struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(document.data)))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", len(document.data), b"BIN\0") + bytes(document.data))


class _Document:
    """Binary part of a glTF file, with the tables that say what is where in it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def primitive(self, mesh: SceneMesh, part: MeshPart) -> dict[str, Any]:
        """Triangles of a part; colours are linear, as glTF wants them."""
        count = part.vertices.stop - part.vertices.start
        colors = np.empty((count, 4), np.uint8)
        colors[:] = [*_linear(part.color), 255]
        places = mesh.vertices[part.vertices] * TO_GLTF  # (V, 3)
        faces = mesh.faces[part.faces] - part.vertices.start  # (F, 3)
        return {
            "attributes": {
                "POSITION": self._place(places, "VEC3", _FLOAT, bounds=True),
                "NORMAL": self._place(mesh.normals[part.vertices] * TO_GLTF, "VEC3", _FLOAT),
                "COLOR_0": self._place(colors, "VEC4", _BYTE, normalized=True),
            },
            "indices": self._place(faces.astype(np.uint32).reshape(-1, 1), "SCALAR", _INT),
            "material": 0,
        }

    def _place(
        self, rows: NDArray[Any], kind: str, component: int, *, bounds: bool = False, normalized: bool = False
    ) -> int:
        content = rows.astype(rows.dtype.newbyteorder("<")).tobytes()
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)}
        self.views.append(view | {"target": _INDICES if component == _INT else _VERTICES})
        self.data += content  # rows are multiples of four bytes, so everything stays aligned
        accessor: dict[str, Any] = {
            "bufferView": len(self.views) - 1,
            "componentType": component,
            "count": len(rows),
            "type": kind,
        }
        if bounds:
            accessor |= {"min": rows.min(axis=0).tolist(), "max": rows.max(axis=0).tolist()}
        if normalized:
            accessor["normalized"] = True
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def _extras(part: MeshPart) -> dict[str, Any]:
    return part.segment.as_json() if part.segment is not None else {"id": 0, "class_id": 0}


def _linear(color: tuple[int, int, int]) -> list[int]:
    """A colour of the screen (sRGB) in linear light, 0..255."""
    shares = [value / 255 for value in color]
    light = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return [round(255 * share) for share in light]


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode().replace("\n", " ")
