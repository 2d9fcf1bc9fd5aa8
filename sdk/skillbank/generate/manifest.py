"""Indexes: ``skills/<skill>/schemas/manifest.json`` for each network, ``manifest.json`` for the bank."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from skillbank._version import __version__
from skillbank.generate.schemas import HEADER, SCHEMA_VERSION
from skillbank.skill_info import SkillInfo
from skillbank.specs.base import Network

__all__ = ["BankManifest", "SkillManifest", "bank_manifest", "schema_path", "skill_manifest", "template_path"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class SkillAction(_Part):
    """One action in the index of a skill."""

    path: str = Field(description="schema, relative to the skill folder")
    spec_template: str = Field(description="template, relative to the skill folder")
    core_module: str = Field(description="module that holds the spec class")
    schema_action: str = Field(description="action the schema was made for")
    automl_default_parameters: list[str] = Field(description="keys searched when none are named")
    automl_disabled_parameters: list[str] = Field(description="keys never searched")
    popular: dict[str, Any] = Field(description="commonly edited keys with their defaults")


class SkillExperiment(_Part):
    """One base experiment in the index of a skill."""

    id: str = Field(description="name that --base-experiment-id takes")
    name: str = Field(description="name for people")
    description: str = Field(description="what it starts from")
    weights: str | None = Field(description="address of pretrained weights, if there are any")
    specs: dict[str, Any] = Field(description="dotted keys that differ from the defaults")


class SkillManifest(_Part):
    """``schemas/manifest.json`` of a model skill."""

    comment: str = Field(alias="$comment", description="what generates the file")
    schema_version: Literal[1] = Field(description="version of this form")
    model: str = Field(description="name of the skill")
    network_arch: str = Field(description="name of the network")
    summary: str = Field(description="what the network does, one sentence")
    automl_enabled: bool = Field(description="training may be routed through AutoML")
    base_experiments: list[SkillExperiment] = Field(
        description="starting points, the first needs no download"
    )
    actions: dict[str, SkillAction] = Field(description="actions that have a schema")
    failures: dict[str, str] = Field(description="actions of skill_info.yaml without a schema, and why")


class BankAction(_Part):
    """One action in the index of the bank."""

    schema_path: str = Field(alias="schema", description="schema, relative to the bank")
    spec_template: str = Field(description="template, relative to the bank")


class BankNetwork(_Part):
    """One network in the index of the bank."""

    title: str = Field(description="name for people")
    skill: str = Field(description="folder of the skill, relative to the bank")
    automl_enabled: bool = Field(description="training may be routed through AutoML")
    actions: dict[str, BankAction] = Field(description="actions in the order a user meets them")


class BankFile(_Part):
    """Digest of one generated file."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="digest of the content")
    bytes: int = Field(ge=0, description="size")


class Generator(_Part):
    """What wrote the files."""

    name: str = Field(description="the command")
    version: str = Field(description="version of the bank")


class BankManifest(_Part):
    """``manifest.json`` at the top of the bank."""

    comment: str = Field(alias="$comment", description="what generates the file")
    schema_version: Literal[1] = Field(description="version of this form")
    generator: Generator = Field(description="what wrote the files")
    networks: dict[str, BankNetwork] = Field(description="networks by name")
    files: dict[str, BankFile] = Field(description="every generated file but this one, relative to the bank")


def schema_path(action: str) -> str:
    """Schema of an action, relative to its skill folder."""
    return f"schemas/{action}.schema.json"


def template_path(action: str) -> str:
    """Template of an action, relative to its skill folder."""
    return f"references/spec_template_{action}.yaml"


def skill_manifest(
    network: Network, info: SkillInfo, schemas: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The index of one skill.

    Args:
        network: the network of the skill.
        info: machine facts of the skill.
        schemas: action -> schema.
    """
    actions = {
        action: SkillAction(
            path=schema_path(action),
            spec_template=template_path(action),
            core_module=schema["x_tao_schema"]["core_module"],
            schema_action=schema["x_tao_schema"]["schema_action"],
            automl_default_parameters=schema["automl_default_parameters"],
            automl_disabled_parameters=schema["automl_disabled_parameters"],
            popular=schema["popular"],
        )
        for action, schema in schemas.items()
    }
    index = SkillManifest(
        comment=f"{HEADER}the spec classes of {network.name}",
        schema_version=SCHEMA_VERSION,
        model=network.skill,
        network_arch=network.name,
        summary=network.summary,
        automl_enabled=info.automl_enabled,
        base_experiments=[
            SkillExperiment(
                id=item.id,
                name=item.name,
                description=item.description,
                weights=item.weights,
                specs=dict(item.specs),
            )
            for item in network.base_experiments
        ],
        actions=actions,
        failures={
            action: "skill_info.yaml names the action, but there is no spec class for it"
            for action in info.actions
            if action not in schemas
        },
    )
    return index.model_dump(by_alias=True)


def bank_manifest(
    networks: Mapping[str, tuple[Network, SkillInfo]], files: Mapping[Path, bytes]
) -> dict[str, Any]:
    """The index of the bank.

    Args:
        networks: network name -> network and machine facts.
        files: all generated files but the index itself, relative to the bank.
    """
    listed = {}
    for name, (network, info) in networks.items():
        folder = f"skills/{network.skill}"
        listed[name] = BankNetwork(
            title=network.title,
            skill=folder,
            automl_enabled=info.automl_enabled,
            actions={
                action: BankAction(
                    schema_path=f"{folder}/{schema_path(action)}",
                    spec_template=f"{folder}/{template_path(action)}",
                )
                for action in network.actions
            },
        )
    index = BankManifest(
        comment=f"{HEADER}what the listed files are made from",
        schema_version=SCHEMA_VERSION,
        generator=Generator(name="skillbank generate", version=__version__),
        networks=listed,
        files={
            path.as_posix(): BankFile(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
            for path, content in sorted(files.items(), key=lambda item: item[0].as_posix())
        },
    )
    return index.model_dump(by_alias=True)
