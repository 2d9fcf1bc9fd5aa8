"""One machine for all tests; each test writes to folders of its own."""

import pytest
from nvpanoptix3d_machine import Machine


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A folder with rooms and specs."""
    return Machine(tmp_path_factory.mktemp("nvpanoptix3d"))
