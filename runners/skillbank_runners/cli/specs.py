"""Specs on the command line: templates, checks, keys, and where values come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skillbank.errors import MissingValueError, UsageError, collect
from skillbank_runners.cli.options import NetworkWord, Output
from skillbank_runners.cli.output import chosen, emit, talk, to_yaml, visible, write
from skillbank_runners.cli.plan_view import terminal_width, value_lines

if TYPE_CHECKING:
    from skillbank.specs.load import ResolvedSpec

__all__ = ["ActionWord", "explain", "key_rows", "keys", "split_words", "template", "validate"]

ActionWord = Annotated[str, typer.Argument(metavar="ACTION", help="Such as train or export.")]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SPEC] [KEY=VALUE]", help="A file, @FILE or JSON text; then settings that win over it."
    ),
]

_KEY_COLUMNS = ("key", "type", "default", "allowed", "automl", "description")


def split_words(words: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """A spec source, if the first word is one, and the ``KEY=VALUE`` words.

    Raises:
        UsageError: a second word that is no setting.
    """
    rest = list(words or ())
    source = None
    if rest and not _is_setting(rest[0]):
        source = rest.pop(0)
    wrong = [word for word in rest if "=" not in word]
    if wrong:
        raise UsageError(
            f"{wrong[0]!r} is no setting; settings are written KEY=VALUE",
            hint="train.num_epochs=5",
            key=wrong[0],
        )
    return source, rest


def _is_setting(word: str) -> bool:
    key, equals, _ = word.partition("=")
    return bool(equals) and all(part.isidentifier() for part in key.split("."))


def template(
    network: NetworkWord,
    action: ActionWord,
    output: Output = None,
) -> None:
    """Print a complete spec with a comment on every key; YAML also when piped, -o json without comments.

    Example:
    skillbank spec template mask2former train > spec.yaml
    """
    from skillbank.skill_info import skill_dir
    from skillbank.specs import network as find_network
    from skillbank.specs import spec_class
    from skillbank.specs.load import default_spec

    found = find_network(network)
    spec_class(network, action)
    packaged = skill_dir(found) / "references" / f"spec_template_{action}.yaml"
    if output not in (None, "yaml"):
        emit(default_spec(network, action), output)
    elif packaged.is_file():
        write(packaged.read_text(encoding="utf-8"))
    else:
        write(to_yaml(default_spec(network, action)))


def _resolved(network: str, action: str, words: Sequence[str] | None, *, draft: bool) -> ResolvedSpec:
    from skillbank.specs.load import Layer, build_spec, parse_overrides, read_spec

    source, settings = split_words(words)
    layers = []
    if source is not None:
        layers.append(Layer("file", source if len(source) < 200 else "text", read_spec(source)))
    if settings:
        layers.append(Layer("override", "command line", parse_overrides(settings)))
    return build_spec(network, action, layers, draft=draft)


def validate(
    network: NetworkWord,
    action: ActionWord,
    words: Words = None,
    complete: Annotated[
        bool,
        typer.Option("--complete", help="Values that datasets or a parent job would fill must be there too."),
    ] = False,
    output: Output = None,
) -> None:
    """Check a spec and report every problem at once; exit code 3 when there is one.

    Mandatory values that are still empty are listed and, without --complete, accepted: datasets and
    parent jobs fill them later.

    Example:
    skillbank spec validate mask2former train spec.yaml train.num_epochs=5
    """
    from skillbank.nested import value_at
    from skillbank.resolve.datasets import missing_data
    from skillbank.specs import spec_class
    from skillbank.specs.load import missing_keys

    spec_class(network, action)
    resolved = _resolved(network, action, words, draft=True)
    nested = resolved.nested()
    own = {key: value_at(nested, key) for key, origin in resolved.origins.items() if origin.kind != "default"}
    missing = missing_keys(network, action, nested)
    missing += [str(problem.key) for problem in missing_data(network, action, own)]
    missing = list(dict.fromkeys(missing))
    if complete and missing:
        raise collect(
            [
                MissingValueError(f"{key}: empty, and {action} needs it", hint=f"{key}=VALUE", key=key)
                for key in missing
            ],
            f"spec {network} {action}",
        )
    emit(
        {
            "valid": True,
            "network": network,
            "action": action,
            "missing": missing,
            "notes": list(resolved.notes),
        },
        output,
    )
    if missing:
        talk(f"note: still empty, to be filled by datasets, a parent job or settings: {', '.join(missing)}")


def explain(network: NetworkWord, action: ActionWord, words: Words = None, output: Output = None) -> None:
    """Show every value of the resolved spec and where it comes from.

    Example:
    skillbank spec explain mask2former train spec.yaml train.num_epochs=5
    """
    from skillbank.explain import explain_spec
    from skillbank.specs import spec_class

    spec_class(network, action)
    resolved = _resolved(network, action, words, draft=True)
    rows = explain_spec(resolved)
    if chosen(output) == "table":
        lines = value_lines(rows, {}, terminal_width())
        write("\n".join(visible(line.removeprefix("  ")) for line in lines))
    else:
        emit([row.to_dict() for row in rows], output, name="key")
    for note in resolved.notes:
        talk(f"note: {note}")


def keys(
    network: NetworkWord,
    action: ActionWord,
    match: Annotated[
        str | None,
        typer.Option("--match", metavar="TEXT", help="Keys and descriptions that contain the text."),
    ] = None,
    popular: Annotated[bool, typer.Option("--popular", help="Keys that are often edited.")] = False,
    automl: Annotated[
        bool, typer.Option("--automl", help="Keys that searches vary by default, or when named.")
    ] = False,
    output: Output = None,
) -> None:
    """List the keys of a spec with type, default, bounds and description.

    Example:
    skillbank spec keys mask2former train --match lr
    """
    from skillbank.automl.space import default_keys
    from skillbank.specs import spec_class

    rows = key_rows(spec_class(network, action))
    searched = set(default_keys(network)) if action == "train" else set()
    for row in rows:
        row["automl"] = _searched(row, action, searched)
    if match:
        rows = [row for row in rows if match.lower() in f"{row['key']} {row['description']}".lower()]
    if popular:
        rows = [row for row in rows if row["popular"]]
    if automl:
        rows = [row for row in rows if row["automl"] in ("default", "when named")]
    emit(rows, output, columns=_KEY_COLUMNS, name="key")


def _searched(row: dict[str, Any], action: str, by_default: set[str]) -> str:
    """Whether a search varies the key by itself, when it is named, or never; empty where nothing is said."""
    if action != "train":
        return "never"
    if row["key"] in by_default:
        return "default"
    return {True: "when named", False: "never", None: ""}[row["automl"]]


def key_rows(model: Any) -> list[dict[str, Any]]:
    """A row for each value a spec class holds, in its own order."""
    from skillbank.specs.base import field_note, walk

    rows = []
    for key, info, section in walk(model):
        if section is not None:
            continue
        note = field_note(info)
        rows.append(
            {
                "key": key,
                "type": _type_name(info.annotation),
                "default": _default(info),
                "allowed": _allowed(info),
                "popular": note.popular,
                "automl": note.automl,
                "unit": note.unit,
                "mandatory_for": list(note.mandatory_for),
                "description": info.description or "",
            }
        )
    return rows


def _default(info: Any) -> Any:
    # `get_default` has other arguments in every second release of pydantic; our factories take none.
    return info.default if info.default_factory is None else info.default_factory()


def _type_name(annotation: Any) -> str:
    from typing import Literal, get_args, get_origin

    if get_origin(annotation) is Literal:
        return "option"
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("NoneType", "None")


def _allowed(info: Any) -> str:
    from typing import Literal, get_args, get_origin

    if get_origin(info.annotation) is Literal:
        return ", ".join(str(option) for option in get_args(info.annotation))
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "multiple of", "pattern": "matches"}
    found = []
    for item in info.metadata:
        for name, sign in signs.items():
            value = getattr(item, name, None)
            if value is not None:
                found.append(f"{sign} {value}")
    return ", ".join(found)
