"""``evals/evals.json`` of a skill: prompts for agents, and the cases that a test executes.

The form is the one of the Agent Skills guide (`skill_name`, `evals` with `id`, `prompt`, `expected_output`,
`files`, `assertions`); `metadata` holds what a program needs to grade a case without reading text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from skillbank.errors import DataError, NotFoundError

__all__ = ["Case", "Check", "Grading", "SkillEvals", "load_evals"]


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Check(_Form):
    """One thing that must hold after a command."""

    of: Literal["exit", "stdout", "stderr", "file"] = Field(description="what is looked at")
    path: str = Field(default="", description="file, relative to the working folder (of = file)")
    query: str = Field(
        default="", description="dotted path into JSON; numbers index lists; empty = the whole text"
    )
    equals: Any = Field(default=None, description="the value found there")
    contains: str = Field(default="", description="text that must occur")


class Grading(_Form):
    """How a case is graded by a program."""

    kind: Literal["positive", "negative", "policy", "repair", "executable"]
    skill: str = Field(description="skill that should be chosen")
    network: str = Field(default="", description="network the request is about")
    route: Literal["", "automl", "direct"] = Field(
        default="", description="policy cases: the route the prompt takes"
    )
    commands: list[str] = Field(default_factory=list, description="shell lines, run in an empty folder")
    checks: list[Check] = Field(default_factory=list, description="hold after the last command")


class Case(_Form):
    """One prompt."""

    id: str
    prompt: str
    expected_output: str
    files: list[str] = Field(
        default_factory=list, description="files given to the agent, relative to the skill"
    )
    assertions: list[str] = Field(description="statements that a grader decides")
    metadata: Grading


class SkillEvals(_Form):
    """The whole file."""

    skill_name: str
    evals: list[Case]


def load_evals(folder: Path) -> SkillEvals:
    """The evals of a skill folder.

    Raises:
        NotFoundError: the folder has no ``evals/evals.json``.
        DataError: the file does not have the documented form.
    """
    path = folder / "evals" / "evals.json"
    if not path.is_file():
        raise NotFoundError(f"{folder.name} has no evals/evals.json", hint="every skill needs one")
    try:
        return SkillEvals.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as err:  # of the file, its JSON, or its form
        raise DataError(
            f"{path}: {err}", hint="compare with schemas/evals.schema.json", key=str(path)
        ) from err
