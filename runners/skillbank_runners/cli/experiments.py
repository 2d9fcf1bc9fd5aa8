"""Schemas, base experiments and search defaults of a network."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from skillbank.errors import NotFoundError
from skillbank.nested import value_at
from skillbank_runners.cli.options import Action, BaseExperimentId, NetworkWord, Output
from skillbank_runners.cli.output import emit
from skillbank_runners.cli.table import Scope

__all__ = [
    "get_automl_defaults",
    "get_automl_param_details",
    "get_job_schema",
    "list_base_experiments",
    "schema",
    "schema_of",
]

_EXPERIMENT_COLUMNS = ("id", "name", "description", "weights")
_PARAMETER_COLUMNS = ("parameter", "type", "default", "minimum", "maximum", "enum", "description")


def list_base_experiments(ctx: typer.Context, output: Output = None) -> None:
    """List the starting points of a network: from scratch, published recipes, pretrained weights.

    Example:
    tao mask2former list-base-experiments
    """
    from skillbank.specs import network

    scope: Scope = ctx.obj
    rows = [
        {
            "id": item.id,
            "name": item.name,
            "network_arch": scope.network,
            "description": item.description,
            "weights": item.weights,
            "specs": dict(item.specs),
        }
        for item in network(scope.network).base_experiments
    ]
    emit(rows, output, columns=_EXPERIMENT_COLUMNS)


def get_job_schema(
    ctx: typer.Context, action: Action, base_experiment_id: BaseExperimentId = None, output: Output = None
) -> None:
    """Print the schema of an action; its `default` is a complete spec.

    With a base experiment the default carries that experiment's values.

    Example:
    tao mask2former get-job-schema --action train
    """
    scope: Scope = ctx.obj
    emit(schema_of(scope.network, action, base_experiment_id), _document(output), name="title")


def schema(
    network: NetworkWord,
    action: Annotated[str, typer.Argument(metavar="ACTION", help="Such as train or export.")],
    base_experiment_id: BaseExperimentId = None,
    output: Output = None,
) -> None:
    """Print the schema of a network's action; its `default` is a complete spec.

    Example:
    skillbank schema mask2former train
    """
    emit(schema_of(network, action, base_experiment_id), _document(output), name="title")


def get_automl_defaults(ctx: typer.Context, action: Action = "train", output: Output = None) -> None:
    """List the keys published for searches, and which of them a search varies when none is named.

    Example:
    tao mask2former get-automl-defaults
    """
    from skillbank.automl.space import default_keys

    scope: Scope = ctx.obj
    published = schema_of(scope.network, action).get("automl_default_parameters", [])
    searched = default_keys(scope.network) if action == "train" else []
    rows = [
        {"parameter": key, "published": key in published, "searched_by_default": key in searched}
        for key in dict.fromkeys([*published, *searched])
    ]
    emit(rows, output, name="parameter")


def get_automl_param_details(
    ctx: typer.Context,
    action: Action = "train",
    parameters: Annotated[
        str | None,
        typer.Option("--parameters", metavar="KEY,KEY", help="These keys; without it all published ones."),
    ] = None,
    output: Output = None,
) -> None:
    """Show type, default, bounds and options of keys that a search may vary.

    Example:
    tao mask2former get-automl-param-details --parameters train.optim.lr
    """
    scope: Scope = ctx.obj
    found = schema_of(scope.network, action)
    keys = (
        [key.strip() for key in parameters.split(",")] if parameters else found["automl_default_parameters"]
    )
    rows = [{"parameter": key, **_details(found, key, scope.network)} for key in keys]
    emit(rows, output, columns=_PARAMETER_COLUMNS, name="parameter")


def schema_of(network: str, action: str, base_experiment_id: str | None = None) -> dict[str, Any]:
    """The schema of an action, with the values of a base experiment in its default.

    Raises:
        NotFoundError: no such network, action or base experiment.
    """
    import json

    from skillbank.generate.schemas import action_schema
    from skillbank.skill_info import skill_dir
    from skillbank.specs import network as find_network
    from skillbank.specs import spec_class

    found = find_network(network)
    spec_class(network, action)
    packaged = skill_dir(found) / "schemas" / f"{action}.schema.json"
    out: dict[str, Any]
    if packaged.is_file():
        out = json.loads(packaged.read_text(encoding="utf-8"))
    else:
        out = action_schema(network, action)
    if base_experiment_id is not None:
        from skillbank.plan import find_base_experiment
        from skillbank_runners.cli.index import with_experiment

        experiment = find_base_experiment(found, base_experiment_id)
        assert experiment is not None
        out["default"] = with_experiment(out["default"], dict(experiment.specs))
    return out


def _document(output: str | None) -> str:
    """A schema is a document: it is printed as JSON on terminals too."""
    return output or "json"


def _details(schema: dict[str, Any], key: str, network: str) -> dict[str, Any]:
    node = value_at(schema, "properties." + key.replace(".", ".properties."))
    if node is None:
        raise NotFoundError(
            f"{key}: {network} has no such key", hint=f"skillbank spec keys {network} train", key=key
        )
    wanted = ("type", "default", "minimum", "maximum", "exclusiveMinimum", "enum", "math_cond", "description")
    return {name: node[name] for name in wanted if name in node}
