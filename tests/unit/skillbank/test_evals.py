from pathlib import Path

import pytest

from skillbank.errors import DataError, NotFoundError
from skillbank.evals import load_evals


def test_evals_that_cannot_be_read_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"has no evals/evals\.json"):
        load_evals(tmp_path)
    file = tmp_path / "evals" / "evals.json"
    file.parent.mkdir()
    for content in (b"{", b"\xff\xfe", b'{"skill_name": "x", "evals": [], "more": 1}'):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"evals\.json") as caught:
            load_evals(tmp_path)
        assert "evals.schema.json" in caught.value.hint
