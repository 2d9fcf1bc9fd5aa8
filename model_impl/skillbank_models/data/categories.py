"""The classes of a dataset: names, colours, things and stuff, and how class indices map to category ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Categories", "Category"]


@dataclass(frozen=True, slots=True)
class Category:
    """One class.

    Attributes:
        id: category id in the dataset's files, above 0.
        color: R, G, B from 0 to 255.
    """

    id: int
    name: str
    color: tuple[int, int, int]
    is_thing: bool


@dataclass(frozen=True, slots=True)
class Categories:
    """Class index (position) -> category; None = an index that no category uses.

    Indices without a category exist where ids are used as they are (class = id - 1) and have gaps.
    """

    by_index: tuple[Category | None, ...]

    def __len__(self) -> int:
        return len(self.by_index)

    @property
    def used(self) -> Sequence[int]:
        """Class indices that have a category."""
        return [index for index, category in enumerate(self.by_index) if category is not None]

    def index_of(self) -> dict[int, int]:
        """Category id -> class index."""
        return {found.id: index for index, found in enumerate(self.by_index) if found is not None}

    def is_thing(self, index: int) -> bool:
        """Whether a class is countable; indices without a category count as things."""
        found = self.by_index[index]
        return found is None or found.is_thing

    def name(self, index: int) -> str:
        """Name of a class."""
        found = self.by_index[index]
        return found.name if found is not None else f"class {index}"

    def color(self, index: int) -> tuple[int, int, int]:
        """Colour of a class."""
        found = self.by_index[index]
        return found.color if found is not None else (128, 128, 128)

    def category_id(self, index: int) -> int:
        """The id to write into result files."""
        found = self.by_index[index]
        return found.id if found is not None else index + 1
