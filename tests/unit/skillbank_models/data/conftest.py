"""One data set of shapes in all formats for the tests of this folder."""

from pathlib import Path

import pytest
from shapes_data import make_shapes

from skillbank_models.data.categories import Categories
from skillbank_models.data.label_map import load_categories


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images of 64 x 96 pixels, the last of which is empty."""
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", images=8, empty=1, seed=2)


@pytest.fixture(scope="session")
def classes(shapes: Path) -> Categories:
    """Its eight classes."""
    return load_categories(shapes / "label_map.json", contiguous=False, num_classes=8)
