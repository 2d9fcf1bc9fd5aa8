"""One machine for all tests; each test writes to folders of its own."""

import pytest
from mask2former_machine import Machine


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A folder with data and specs."""
    return Machine(tmp_path_factory.mktemp("mask2former"))
