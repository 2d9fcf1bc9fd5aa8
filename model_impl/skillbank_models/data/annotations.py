"""One row for each image, whatever the annotation format, kept as a list or packed into one buffer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import torch

__all__ = ["PackedRecords", "Record", "stored"]


class Record(NamedTuple):
    """What the annotation files say about one image; plain values only, so that it can be packed.

    Attributes:
        image: file, relative to the image folder or absolute.
        image_id: of the annotation file; the relative path where it has no ids.
        height: as annotated, after EXIF orientation; 0 = not told.
        width: likewise.
        mask: file of the label or segment map; empty for instances.
        segments: rows [id, class index, is crowd (0 or 1)], instances with two further entries: their
            COCO segmentation (polygons or run lengths) and their annotated area or None.
    """

    image: str
    image_id: int | str
    height: int
    width: int
    mask: str
    segments: list[list[Any]]


class PackedRecords(Sequence[Record]):
    """Records as bytes in one tensor: loader processes share it instead of copying Python objects.

    A forked process sees the same pages, which no reference count ever touches; to a spawned one torch hands
    the tensor as shared memory. Reading a record decodes it.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        chunks: list[bytes] = []
        lengths: list[int] = []
        for record in records:
            chunks.append(json.dumps(record, separators=(",", ":")).encode())
            lengths.append(len(chunks[-1]))
        ends = np.cumsum(lengths, dtype=np.int64)  # (N,)
        self._ends = torch.from_numpy(ends)
        self._bytes = torch.from_numpy(np.frombuffer(bytearray(b"".join(chunks)), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def num_bytes(self) -> int:
        """Size of all records."""
        return self._bytes.numel() + 8 * self._ends.numel()

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        begin = int(self._ends[place - 1]) if place else 0
        return Record(*json.loads(self._bytes[begin : int(self._ends[place])].numpy().tobytes()))


def stored(records: list[Record], storage: Literal["default", "serialized"]) -> Sequence[Record]:
    """The records in the form that `dataset.dataset_type` asks for; both give equal records."""
    return PackedRecords(records) if storage == "serialized" else records
