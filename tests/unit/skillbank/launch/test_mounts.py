import json
from pathlib import Path

import pytest

from skillbank.errors import InvalidValueError
from skillbank.launch.mounts import mounts_file, read_mounts


def write(folder: Path, content: object) -> Path:
    file = folder / "mounts.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_an_absent_file_gives_empty_settings(tmp_path: Path) -> None:
    found = read_mounts(tmp_path / "none.json")
    assert (found.envs, found.mounts, found.docker_options, found.warnings) == ({}, {}, {}, ())


def test_all_three_blocks_are_read(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {
            "Mounts": [{"source": "/local/data", "destination": "/data"}],
            "Envs": [{"variable": "OMP_NUM_THREADS", "value": "1"}, {"variable": "MINE", "value": 4}],
            "DockerOptions": {"shm_size": "16G"},
        },
    )
    found = read_mounts(file)
    assert found.mounts == {"/local/data": "/data"}
    assert found.envs == {"OMP_NUM_THREADS": "1", "MINE": "4"}
    assert found.docker_options == {"shm_size": "16G"}
    assert found.warnings == ()


def test_the_slip_of_the_document_is_passed_on_with_a_warning(tmp_path: Path) -> None:
    file = write(tmp_path, {"Envs": [{"variable": "OMP_NUM_THREADSR", "value": "1"}]})
    found = read_mounts(file)
    assert found.envs == {"OMP_NUM_THREADSR": "1"}
    assert found.warnings == (f"{file}: variable OMP_NUM_THREADSR is set, but did you mean OMP_NUM_THREADS?",)


def test_an_unknown_block_is_told(tmp_path: Path) -> None:
    (warning,) = read_mounts(write(tmp_path, {"Env": []})).warnings
    assert "block 'Env' is not known and ignored; known are Mounts, Envs, DockerOptions" in warning


def test_broken_json_is_one_error_with_its_place(tmp_path: Path) -> None:
    file = write(tmp_path, '{"Envs": [\n  {"variable": }]}')
    with pytest.raises(InvalidValueError, match="line 2, column 16: no JSON") as caught:
        read_mounts(file)
    assert str(file) in caught.value.message
    assert "jq ." in caught.value.hint
    assert caught.value.exit_code == 3


def test_all_wrong_entries_are_told_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {
            "Envs": [{"variable": "A"}, {"variable": "", "value": "1"}, "x"],
            "Mounts": {},
            "DockerOptions": [1],
        },
    )
    with pytest.raises(InvalidValueError, match="has 4 problems") as caught:
        read_mounts(file)
    assert [problem.key for problem in caught.value.problems] == [
        "Envs[0]",
        "Envs[1]",
        "Envs[2]",
        "DockerOptions",
    ]
    assert '"variable": "..."' in caught.value.message


@pytest.mark.parametrize("content", ["[]", '"x"', "3"])
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(InvalidValueError, match="the file: found"):
        read_mounts(write(tmp_path, content))


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="it cannot be read"):
        read_mounts(tmp_path)


def test_values_of_variables_are_in_no_error(tmp_path: Path) -> None:
    file = write(tmp_path, {"Envs": [{"variable": "A", "valeu": "s3cr3t"}]})
    with pytest.raises(InvalidValueError) as caught:
        read_mounts(file)
    assert "s3cr3t" not in str(caught.value.to_dict())


def test_the_file_is_chosen_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mounts_file({"SKILLBANK_MOUNTS_FILE": str(tmp_path / "x.json")}) == tmp_path / "x.json"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert mounts_file({}) == tmp_path / ".tao_mounts.json"


@pytest.mark.parametrize("block", ["the file", "DockerOptions", "Envs"])
def test_values_of_a_wrong_form_are_not_told(tmp_path: Path, block: str) -> None:
    """They may be secrets."""
    path = tmp_path / "mounts.json"
    secret = [{"variable": "AWS_SECRET_ACCESS_KEY", "value": "hunter22"}, ["hunter22"]]
    path.write_text(json.dumps(secret if block == "the file" else {block: secret}))
    with pytest.raises(InvalidValueError, match="found list") as caught:
        read_mounts(path)
    assert "hunter22" not in f"{caught.value.to_dict()}"
