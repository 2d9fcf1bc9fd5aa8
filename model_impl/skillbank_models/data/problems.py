"""Problems of data files, gathered so that one error tells all of them."""

from __future__ import annotations

from collections.abc import Sequence

from skillbank.errors import AnnotationError, DataError, collect

__all__ = ["Problems", "some"]


class Problems:
    """Problems of one file or folder, the first of which are kept and the rest counted.

    Args:
        where: the file or folder, put before every message.
        limit: how many problems are told in full; a file with a systematic fault has one for each line.
    """

    def __init__(self, where: object, *, limit: int = 20) -> None:
        self._where = str(where)
        self._limit = limit
        self._kept: list[DataError] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, message: str, *, hint: str = "", kind: type[DataError] = AnnotationError) -> None:
        """Note a problem; `message` goes on after the name of the file."""
        self.note(kind(f"{self._where}: {message}", hint=hint, key=self._where))

    def note(self, error: DataError) -> None:
        """Note an error that says itself where it is."""
        self._count += 1
        if len(self._kept) < self._limit:
            self._kept.append(error)

    def check(self) -> None:
        """Go on only when nothing was noted.

        Raises:
            DataError: all problems in one; of their common class.
        """
        if not self._count:
            return
        if self._count > len(self._kept):
            rest = self._count - len(self._kept)
            self._kept.append(AnnotationError(f"{self._where}: {rest} more problems of this kind"))
        raise collect(self._kept, self._where)


def some(names: Sequence[object], *, most: int = 5) -> str:
    """The first names of a list, and how many follow."""
    shown = ", ".join(str(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
