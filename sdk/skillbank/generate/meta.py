"""``schemas/*.schema.json``, the forms of the bank's own files, and ``references/errors.md``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from skillbank import errors
from skillbank.errors import SkillBankError
from skillbank.evals import SkillEvals
from skillbank.generate.manifest import BankManifest, SkillManifest
from skillbank.generate.schemas import DRAFT, HEADER, dumped
from skillbank.jobs.record import Request
from skillbank.jobs.states import State
from skillbank.skill_info import SkillInfo

__all__ = ["annotations_schema", "error_list", "job_record_schema", "meta_files"]


def meta_files() -> dict[Path, bytes]:
    """All files of this module, relative to the bank."""
    folder = Path("schemas")
    return {
        folder / "annotations.schema.json": dumped(annotations_schema()),
        folder / "evals.schema.json": dumped(
            _of_model(SkillEvals, "evals.py", "evals/evals.json of a skill")
        ),
        folder / "job_record.schema.json": dumped(job_record_schema()),
        folder / "manifest.schema.json": dumped(_manifests_schema()),
        folder / "skill_info.schema.json": dumped(
            _of_model(SkillInfo, "skill_info.py", "references/skill_info.yaml of a skill")
        ),
        Path("references/errors.md"): error_list().encode(),
    }


def _head(source: str, title: str) -> dict[str, Any]:
    return {"$schema": DRAFT, "$comment": f"{HEADER}sdk/skillbank/{source}", "title": title}


def _of_model(model: type[BaseModel], source: str, title: str) -> dict[str, Any]:
    return {**_head(source, title), **{k: v for k, v in model.model_json_schema().items() if k != "title"}}


def _manifests_schema() -> dict[str, Any]:
    schemas = TypeAdapter(BankManifest | SkillManifest).json_schema()
    return {
        **_head("generate/manifest.py", "manifest.json of the bank, schemas/manifest.json of a skill"),
        **schemas,
    }


_TEXT: dict[str, Any] = {"type": "string"}
_MAYBE_TEXT: dict[str, Any] = {"type": ["string", "null"]}
_TIME: dict[str, Any] = {"type": "string", "format": "date-time", "description": "RFC 3339, UTC"}
_RECORD: dict[str, tuple[dict[str, Any], str]] = {
    "schema_version": ({"const": 1}, "version of this form"),
    "redacted": ({"const": True}, "the record holds no secret"),
    "id": (
        {"type": "string", "pattern": "^[a-z0-9_]+-[a-z0-9_]+-[0-9a-f]{6,}$"},
        "network, action, random part",
    ),
    "network": (_TEXT, "name of the network"),
    "action": (_TEXT, "name of the action"),
    "name": (_TEXT, "name the user gave"),
    "kind": (_TEXT, "experiment or dataset"),
    "description": (_TEXT, "free text"),
    "tags": ({"type": "array", "items": _TEXT}, "labels"),
    "state": ({"enum": [state.value for state in State]}, "state when the record was written"),
    "message": (_TEXT, "what belongs to the state"),
    "created_at": (_TIME, "when the job was created"),
    "updated_at": (_TIME, "when it changed last"),
    "results_dir": (_TEXT, "folder or URI of the results"),
    "workspace_id": (_MAYBE_TEXT, "workspace"),
    "experiment_id": (_MAYBE_TEXT, "experiment"),
    "base_experiment_id": (_MAYBE_TEXT, "base experiment"),
    "parent_job_id": (_MAYBE_TEXT, "job whose results this one takes"),
    "launcher": (_TEXT, "what starts the worker"),
    "backend_ref": ({"type": "object"}, "the launcher's own reference, such as a process id"),
    "idempotency_key": (_MAYBE_TEXT, "requests with the same key are one job"),
    "request_digest": (_MAYBE_TEXT, "digest of the request"),
    "encryption_key_digest": (_MAYBE_TEXT, "salted digest of the encryption key, never the key"),
    "error": ({"type": ["object", "null"]}, "code, message and hint of a failed job"),
    "versions": ({"type": "object", "additionalProperties": _TEXT}, "what the job was created with"),
}
_TRANSITION = {
    "type": "object",
    "required": ["ts", "state", "message", "source"],
    "additionalProperties": False,
    "properties": {
        "ts": _TIME,
        "state": {"enum": [state.value for state in State]},
        "message": _TEXT,
        "source": {"enum": ["sdk", "worker", "launcher", "reconcile"]},
    },
}


def job_record_schema() -> dict[str, Any]:
    """Form of ``job.json`` in a job folder; fields that a later version adds are allowed."""
    request = TypeAdapter(Request).json_schema(ref_template="#/$defs/{model}")
    defs = request.pop("$defs", {})
    properties: dict[str, Any] = {
        name: {"description": description, **node} for name, (node, description) in _RECORD.items()
    }
    properties["request"] = {"description": "what was asked for", "$ref": "#/$defs/Request"}
    properties["transitions"] = {
        "description": "all changes of state, oldest first",
        "type": "array",
        "minItems": 1,
        "items": _TRANSITION,
    }
    optional = {"encryption_key_digest", "request_digest", "versions"}
    return {
        **_head("generate/meta.py", "job.json of a job folder"),
        "type": "object",
        "required": sorted(set(properties) - optional),
        "properties": properties,
        "$defs": {**defs, "Request": request},
    }


_KEYWORDS: dict[str, dict[str, Any]] = {
    "x_value_type": {
        "type": "string",
        "description": "type name of the dialect: int, float, bool, categorical, ...",
    },
    "math_cond": {"type": "string", "description": "relation the value has to meet, such as `> 0` or `/ 8`"},
    "popular": {"description": "true at a commonly edited key; at the root all of these with their defaults"},
    "automl_enabled": {
        "type": "boolean",
        "description": "true: searched by default; false: never searched; absent: searched when named",
    },
    "x_scale": {"enum": ["log", "linear"], "description": "how a search samples the value"},
    "x_unit": {"type": "string", "description": "physical unit"},
    "x_spellings": {"type": "object", "description": "accepted spelling -> canonical value"},
    "x_any_case": {"const": True, "description": "options are accepted in any case, `_` and `-` ignored"},
    "x_mandatory": {
        "const": True,
        "description": "the action cannot start without a value; it has no default",
    },
    "x_foreign": {"const": True, "description": "block of another action; accepted and not read"},
    "option_weights": {
        "type": "array",
        "items": {"type": "number", "minimum": 0},
        "description": "sampling weights of `enum`, in its order",
    },
    "automl_default_parameters": {
        "type": "array",
        "items": {"type": "string"},
        "description": "root: dotted keys searched when none are named",
    },
    "automl_disabled_parameters": {
        "type": "array",
        "items": {"type": "string"},
        "description": "root: dotted keys never searched",
    },
    "x_aliases": {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": "root: other dotted key -> dotted key; a prefix stands for all keys below it",
    },
    "x_tao_schema": {
        "type": "object",
        "description": "root: what the schema is for and made from",
        "required": [
            "schema_version",
            "model",
            "network_arch",
            "action",
            "schema_action",
            "core_module",
            "source",
        ],
        "properties": {
            "schema_version": {"const": 1},
            **{
                name: {"type": "string"}
                for name in ("model", "network_arch", "action", "schema_action", "core_module", "source")
            },
        },
        "additionalProperties": False,
    },
}
_STANDARD = (
    "additionalProperties", "anyOf", "default", "description", "enum", "examples", "exclusiveMaximum",
    "exclusiveMinimum", "items", "maxItems", "maxLength", "maxProperties", "maximum", "minItems", "minLength",
    "minProperties", "minimum", "multipleOf", "pattern", "properties", "propertyNames", "required", "title",
    "type", "$schema", "$comment",
)  # fmt: skip


def annotations_schema() -> dict[str, Any]:
    """Form of the action schemas: standard keywords, and the bank's own ones with their meaning."""
    node: dict[str, Any] = {
        "type": "object",
        "properties": {
            **dict.fromkeys(_STANDARD, True),
            **_KEYWORDS,
            "properties": {"type": "object", "additionalProperties": {"$ref": "#/$defs/node"}},
            "items": {"$ref": "#/$defs/node"},
            "anyOf": {"type": "array", "items": {"$ref": "#/$defs/node"}},
        },
        "additionalProperties": False,
    }
    return {
        **_head("generate/meta.py", "schemas/<action>.schema.json: keywords of an action schema"),
        "allOf": [{"$ref": DRAFT}, {"$ref": "#/$defs/node"}],
        "required": [
            "$schema", "type", "properties", "required", "default", "additionalProperties", "popular",
            "automl_default_parameters", "automl_disabled_parameters", "x_aliases", "x_tao_schema",
        ],
        "$defs": {"node": node},
    }  # fmt: skip


def error_list() -> str:
    """The error classes with code and exit code, as Markdown."""
    rows = []
    for name in errors.__all__:
        cls = getattr(errors, name)
        if inspect.isclass(cls) and issubclass(cls, SkillBankError) and cls is not SkillBankError:
            rows.append((cls.exit_code, cls.code, name, (cls.__doc__ or "").partition("\n")[0].strip()))
    lines = [
        f"<!-- {HEADER}sdk/skillbank/errors.py -->",
        "",
        "# Errors",
        "",
        "Errors are text on standard error; with `-o json` a JSON object follows: `code`, `message`,",
        "`hint` and, where they apply, `key`, `value`, `allowed` and the single `problems`. Codes stay the",
        "same between versions. Exit code 0 means done, 1 is a fault of the tool itself.",
        "",
        "| exit | code | class | meaning |",
        "|---|---|---|---|",
        *(f"| {number} | `{code}` | `{name}` | {meaning} |" for number, code, name, meaning in sorted(rows)),
    ]
    return "\n".join(lines) + "\n"
