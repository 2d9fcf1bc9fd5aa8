"""Weight files on the command line: what one is, and the same weights for another program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skillbank.errors import InvalidValueError, NotInThisVersionError, UsageError
from skillbank_runners.cli.options import Output
from skillbank_runners.cli.output import emit, talk

if TYPE_CHECKING:
    from skillbank_models.protocol import WeightFormats
    from skillbank_models.weights.files import ForeignWeights

__all__ = ["convert", "inspect"]

_SHOWN = 10

NetworkOption = Annotated[
    str | None,
    typer.Option("--network", metavar="NETWORK", help="Network of the weights; else told from the file."),
]
Source = Annotated[
    Path,
    typer.Argument(metavar="SOURCE", help=".pth, .pkl, .safetensors or a Hugging Face folder."),
]


def inspect(
    file: Source,
    network: NetworkOption = None,
    output: Output = None,
) -> None:
    """Tell what a weight file is, and the settings that a spec needs for it.

    Example:
    skillbank weights inspect model_final.pkl
    """
    known = _formats(network)
    from skillbank_models.weights.files import read_tensors

    found = read_tensors(file, key="SOURCE")
    name, facts = _recognised(found, known)
    settings: Mapping[str, Any] = facts.get("settings", {})
    names = list(found.tensors)[:_SHOWN]
    record = {
        "file": str(file),
        "kind": found.kind,
        "network": name,
        "layout": facts.get("layout"),
        "tensors": len(found.tensors),
        "parameters": sum(tensor.numel() for tensor in found.tensors.values()),
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in found.tensors.values()}),
        "marks": dict(found.marks),
        "settings": dict(settings),
        "names": names,
    }
    lines = {key: value for key, value in record.items() if key not in ("settings", "marks", "names")}
    emit(record, output, people={**lines, **settings}, name="layout")
    if not name:
        talk(f"no network here has weights of these names: {', '.join(names)}, ...")


def convert(
    source: Source,
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="File or folder to write; it may not be there yet.")
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]", help="Spec settings of the model that the file does not tell."),
    ] = None,
    network: NetworkOption = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="LAYOUT", help="own, hf, ...; without it the ending of TARGET decides."),
    ] = None,
    output: Output = None,
) -> None:
    """Write weights in the layout of another program; nothing is written when a tensor is missing.

    Example:
    skillbank weights convert model_final.pkl mask2former.pth --network mask2former --to own
    """
    known = _formats(network)
    from skillbank.specs.load import parse_overrides
    from skillbank_models.weights.files import read_tensors

    if target.exists():
        raise UsageError(
            f"{target}: is there already", hint="name a path that is free", key="TARGET", value=str(target)
        )
    found = read_tensors(source, key="SOURCE")
    name, _ = _recognised(found, known)
    if not name:
        raise InvalidValueError(
            f"SOURCE: {source} holds no weights of {network or 'a network of this version'}; its "
            f"{len(found.tensors)} tensors are named {', '.join(list(found.tensors)[:3])}, ...",
            hint=f"skillbank weights inspect {source}",
            key="SOURCE",
            value=str(source),
        )
    formats = known[name]
    settings = parse_overrides(words or [], network=name, action="train")
    report = formats.convert(found, target, _layout(formats, target, to), settings)
    emit({"network": name, **report}, output, name="target")
    unexpected = report.get("unexpected", [])
    if unexpected:
        more = "" if len(unexpected) <= _SHOWN else f", and {len(unexpected) - _SHOWN} more"
        talk(f"left out {len(unexpected)} tensors: {', '.join(unexpected[:_SHOWN])}{more}")
    talk(f"wrote {target}: {report['matched']} tensors matched, {len(unexpected)} were unexpected")


def _formats(name: str | None) -> dict[str, WeightFormats]:
    """Network -> what it reads and writes; of one network, or of all that this version can run."""
    from skillbank.runtime import has_implementation, require_runtime
    from skillbank.specs import network as find_network
    from skillbank.specs import networks
    from skillbank_runners.execution import load_implementation

    asked = [find_network(name)] if name else [found for found in networks() if has_implementation(found)]
    out: dict[str, WeightFormats] = {}
    for found in asked:
        require_runtime(found)
        formats = load_implementation(found.name).weights
        if formats is not None:
            out[found.name] = formats
    if not out:
        raise NotInThisVersionError(
            f"{name} reads its own checkpoints alone"
            if name
            else "no network of this version reads weights of other programs",
            hint="skillbank networks",
            key="--network",
        )
    return out


def _recognised(
    found: ForeignWeights, known: Mapping[str, WeightFormats]
) -> tuple[str | None, Mapping[str, Any]]:
    for name, formats in known.items():
        facts = formats.inspect(found)
        if facts is not None:
            return name, facts
    return None, {}


def _layout(formats: WeightFormats, target: Path, asked: str | None) -> str:
    """The layout to write.

    Raises:
        UsageError: it does not exist, or its files end otherwise.
    """
    if asked is not None and asked not in formats.targets:
        raise UsageError(
            f"--to: {asked!r} is no layout; use {', '.join(formats.targets)}",
            hint="--to own",
            key="--to",
            value=asked,
            allowed=list(formats.targets),
        )
    for name, endings in formats.targets.items():
        if target.suffix in endings and asked in (None, name):
            return name
    said = {name: ", ".join(end or "a folder" for end in ends) for name, ends in formats.targets.items()}
    ending = formats.targets[asked or next(iter(said))][0]
    raise UsageError(
        f"TARGET: {target} does not end as files of {asked or 'any layout'} do: "
        + (said[asked] if asked else "; ".join(f"{name} {ends}" for name, ends in said.items())),
        hint=f"skillbank weights convert SOURCE {target.with_suffix(ending)}",
        key="TARGET",
        value=str(target),
    )
