"""``references/skill_info.yaml``: the machine facts of a skill that are not spec fields.

The file is written by hand and read here, so that tables in playbooks, data-source overrides and parent-job
functions all come from one place. `schemas/skill_info.schema.json` is generated from these classes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from skillbank.bank import skill_folder
from skillbank.errors import DataError, NotFoundError
from skillbank.specs._yaml import load_yaml
from skillbank.specs.base import Network

__all__ = [
    "ActionInfo",
    "Condition",
    "ConvertJobPath",
    "FromMetadata",
    "Input",
    "Link",
    "Output",
    "Role",
    "SkillInfo",
    "SourceRule",
    "Stages",
    "load_skill_info",
    "skill_dir",
]

Role = Literal["train_datasets", "eval_dataset", "inference_dataset", "calibration_dataset", "dataset"]


class _Info(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Input(_Info):
    """A spec key of an action that names data to be brought to the machine."""

    type: Literal["file", "folder", "file_or_folder"] = Field(
        description="what the command expects at this key"
    )
    optional: bool = Field(default=False, description="the action runs without it")
    archive: Literal["keep", "extract", "extract_to_parent"] = Field(
        default="keep",
        description="extract: an archive becomes the folder it holds; extract_to_parent: its parent folder",
    )
    words: list[str] = Field(
        default_factory=list, description="values that are no place of their own, and so stay as they are"
    )


class Output(_Info):
    """A spec key of an action that names a place to write to."""

    type: Literal["file", "folder"] = Field(description="what is written")


class ActionInfo(_Info):
    """One action of a network."""

    description: str = Field(description="what the action does, one sentence")
    command: str = Field(description="command line; {config_path} stands for the spec file")
    config_format: Literal["yaml", "json"] = Field(default="yaml", description="format of the spec file")
    mode: Literal["config"] = Field(default="config", description="the command reads a spec file")
    inputs: dict[str, Input] = Field(default_factory=dict, description="spec keys that name data")
    outputs: dict[str, Output] = Field(default_factory=dict, description="spec keys that name results")
    upload_excludes: list[str] = Field(
        default_factory=list, description="gitignore-style patterns not uploaded"
    )
    accepts: list[str] = Field(
        default_factory=lambda: [".pth"],
        description="file endings of a parent's artifact this action can take",
    )
    produces: list[str] = Field(
        default_factory=list, description="file endings of artifacts it leaves for others"
    )


class Condition(_Info):
    """When a rule applies, told from metadata of the request such as ``dataset_format``."""

    metadata_key: str
    equals: list[str] = Field(default_factory=list, description="applies when the value is one of these")
    not_equals: list[str] = Field(default_factory=list, description="applies when the value is none of these")


class FromMetadata(_Info):
    """A value taken from metadata of the request."""

    key: str
    mapping: dict[str, Any] = Field(
        default_factory=dict, description="metadata value -> spec value; * = any other"
    )
    default: Any = Field(default=None, description="value when the metadata key is absent")


class ConvertJobPath(_Info):
    """A file in the results of the conversion job that prepared the dataset."""

    pattern: str = Field(description="file name in the job's results; {split} is replaced")
    split_key: str = Field(
        default="aicity.split", description="spec key of the conversion job that names the split"
    )
    fallback_split: str = Field(default="train", description="split when that key is empty or lists several")
    in_dataset: bool = Field(
        default=False, description="the pattern names a place in the dataset, not in the results of the job"
    )


class SourceRule(_Info):
    """Where the value of one spec key comes from.

    Exactly one of `source`, `value`, `value_from_metadata` or `convert_job` is the origin.
    """

    source: list[Role] = Field(
        default_factory=list, description="datasets in order of preference; first given wins"
    )
    path: str = Field(default="", description="path inside the dataset; empty = its root")
    path_from_format: dict[str, str] = Field(
        default_factory=dict, description="dataset format -> path, where it differs by format; * = any other"
    )
    alternatives: list[str] = Field(
        default_factory=list, description="other paths that serve when `path` is not there, in order"
    )
    value: Any = Field(default=None, description="a constant")
    value_from_metadata: FromMetadata | None = None
    convert_job: ConvertJobPath | None = None
    conditional: Condition | None = Field(
        default=None, description="the rule counts only under this condition"
    )
    optional: bool = Field(default=False, description="a missing dataset is no error")
    multiple: bool = Field(default=False, description="the key takes a list, one entry for each dataset")


class Link(_Info):
    """A file to be downloaded once before the job starts."""

    link: str
    destination_path: str


class Stages(_Info):
    """Trainings that build on each other: which stage a spec is, and where each stage's weights go."""

    key: str = Field(description="spec key whose value tells the stage")
    values: list[Any] = Field(description="its values, first stage first")
    weights: list[str] = Field(description="spec key of the weights of each stage, in the same order")


class SkillInfo(_Info):
    """The whole file."""

    name: str = Field(description="name of the skill; equals its folder")
    type: Literal["model", "application", "platform"] = Field(description="kind of skill")
    network_arch: str | None = Field(default=None, description="network identifier of a model skill")
    description: str = Field(description="what the skill is for, one sentence")
    automl_enabled: bool = Field(default=False, description="training may be routed through AutoML")
    data_format: str = Field(default="", description="dataset format when a request names none")
    data_formats: list[str] = Field(default_factory=list, description="dataset formats the network reads")
    gpu_spec_key: str = Field(default="train.num_gpus", description="spec key of the GPUs per node")
    node_spec_key: str = Field(default="train.num_nodes", description="spec key of the number of nodes")
    actions: dict[str, ActionInfo] = Field(default_factory=dict)
    data_sources: dict[str, dict[str, SourceRule]] = Field(
        default_factory=dict, description="action -> spec key -> origin of its value"
    )
    spec_params: dict[str, dict[str, str | Link]] = Field(
        default_factory=dict, description="action -> spec key -> parent-job function or download"
    )
    stages: Stages | None = Field(default=None, description="stages of training, for networks that have them")
    spec_shorthand_keys: dict[str, str] = Field(
        default_factory=dict, description="short name -> dotted spec key"
    )
    spec_templates: dict[str, str] = Field(
        default_factory=dict, description="action -> template, relative path"
    )
    depends_on: list[str] = Field(default_factory=list, description="skills this one sends the reader to")
    notes: list[str] = Field(default_factory=list, description="facts worth knowing, one sentence each")


def skill_dir(network: Network) -> Path:
    """The skill folder of a network, in the bank or where the network says."""
    return network.skill_path or skill_folder(network.skill)


@cache
def _load(path: Path, stamp: int) -> SkillInfo:
    try:
        return SkillInfo.model_validate(load_yaml(path.read_text(encoding="utf-8"), path.name))
    except (OSError, ValueError) as err:  # of the file, its YAML, or its form
        raise DataError(
            f"{path}: {err}", hint="compare with schemas/skill_info.schema.json", key=str(path)
        ) from err


def load_skill_info(network: Network) -> SkillInfo:
    """The machine facts of a network's skill.

    Raises:
        NotFoundError: the skill has no ``references/skill_info.yaml``.
        DataError: the file does not have the documented form.
    """
    path = skill_dir(network) / "references" / "skill_info.yaml"
    if not path.is_file():
        raise NotFoundError(f"skill {network.skill} has no {path}", hint="skillbank skills validate")
    return _load(path, path.stat().st_mtime_ns)
