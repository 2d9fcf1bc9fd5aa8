import traceback

import pytest

from skillbank import errors
from skillbank.errors import (
    ConflictError,
    DataError,
    InvalidValueError,
    MissingFilesError,
    MissingValueError,
    NotFoundError,
    SkillBankError,
    SpecError,
    collect,
)

CLASSES = [getattr(errors, name) for name in errors.__all__ if name != "collect"]
EXIT_CODES = {
    "usage": 2, "spec": 3, "data": 3, "generate": 3, "not-found": 4, "backend": 5, "job": 6,
}  # fmt: skip


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_has_a_code_of_its_stage_and_tells_all_it_knows(kind: type[SkillBankError]) -> None:
    assert kind.exit_code == EXIT_CODES.get(kind.code.partition(".")[0], 1)

    error = kind(
        "train.x: 3 is not allowed; use 1 or 2", hint="train.x=1", key="train.x", value=3, allowed=(1, 2)
    )
    assert str(error) == "train.x: 3 is not allowed; use 1 or 2"
    assert error.to_dict() == {
        "code": kind.code,
        "message": "train.x: 3 is not allowed; use 1 or 2",
        "hint": "train.x=1",
        "key": "train.x",
        "value": 3,
        "allowed": [1, 2],
    }


def test_codes_tell_classes_apart() -> None:
    codes = [kind.code for kind in CLASSES]
    assert len(set(codes)) == len(codes) >= 20


def test_none_is_a_value_and_no_value_is_not() -> None:
    assert "value" not in SpecError("x").to_dict()
    assert SpecError("x", value=None).to_dict()["value"] is None
    assert SpecError("x", value=object).to_dict()["value"] == str(object)


def test_builtins_that_callers_expect() -> None:
    assert issubclass(SpecError, ValueError)
    assert issubclass(NotFoundError, LookupError)


@pytest.mark.parametrize(
    ("kinds", "shared"),
    [
        ((InvalidValueError, InvalidValueError), InvalidValueError),
        ((InvalidValueError, ConflictError), SpecError),
        ((DataError, MissingFilesError), DataError),
        ((NotFoundError, MissingValueError), SpecError),
        ((NotFoundError, MissingFilesError), NotFoundError),
    ],
)
def test_many_problems_become_one_error_of_their_stage(
    kinds: tuple[type[SkillBankError], ...], shared: type[SkillBankError]
) -> None:
    problems = [kind(f"problem {number}", hint=f"hint {number}") for number, kind in enumerate(kinds)]
    error = collect(problems, "spec mask2former train")

    assert type(error) is shared
    assert error.problems == tuple(problems)
    assert str(error).splitlines() == [
        "spec mask2former train has 2 problems:",
        "  - problem 0", "    hint: hint 0", "  - problem 1", "    hint: hint 1",
    ]  # fmt: skip


def test_a_single_problem_is_itself() -> None:
    problem = ConflictError("x")
    assert collect([problem], "spec") is problem


def test_a_traceback_shows_the_hint() -> None:
    error = NotFoundError("no such job", hint="skillbank jobs list")
    assert str(error) == "no such job"
    assert "".join(traceback.format_exception(error)).splitlines()[-1] == "hint: skillbank jobs list"
    assert not getattr(SpecError("x"), "__notes__", [])
