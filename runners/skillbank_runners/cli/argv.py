"""Command lines as they arrive, before any parser: spelling of flags, values that an empty variable left out.

``--workspace-id $WORKSPACE_ID --specs x`` with an empty variable would otherwise hand ``--specs`` to
``--workspace-id``; the parsers of command-line libraries take what comes next.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from skillbank.errors import UsageError

__all__ = ["HELP", "Flags", "asks_for_help", "flag_values", "tidy"]

HELP = ("-h", "--help")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The flags of one command.

    Attributes:
        plain: flags without a value.
        valued: flags with one.
        may_be_empty: those of `valued` for which an empty text means something.
        settings: the command takes ``KEY=VALUE`` words; then ``-o KEY=VALUE`` is one of them too.
    """

    plain: frozenset[str]
    valued: frozenset[str]
    may_be_empty: frozenset[str] = frozenset()
    settings: bool = False

    @property
    def every(self) -> frozenset[str]:
        """All of them, with those for help."""
        return self.plain | self.valued | frozenset(HELP)


def _spelled(word: str) -> str:
    """The flag with hyphens, ``--job_type=x`` -> ``--job-type=x``; other words as they are."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _is_flag(word: str, known: Collection[str]) -> bool:
    return _spelled(word).partition("=")[0] in known


def asks_for_help(args: Sequence[str], valued: Collection[str] = ()) -> bool:
    """Whether ``-h`` or ``--help`` stands where a flag may stand."""
    before = ""
    for word in args:
        if word == "--":
            return False
        if word in HELP and _spelled(before) not in valued:
            return True
        before = word
    return False


def flag_values(args: Sequence[str], *names: str) -> list[str]:
    """The values behind a flag, found without knowing the command."""
    found: list[str] = []
    words = list(args)
    for index, word in enumerate(words):
        if word == "--":
            break
        name, equals, value = _spelled(word).partition("=")
        if name in names:
            found += [value] if equals else words[index + 1 : index + 2]
        elif word[:2] in names and not word.startswith("--"):
            found.append(word[2:].removeprefix("="))
    return found


def tidy(args: Sequence[str], flags: Flags, where: str) -> list[str]:
    """The words with flags in one spelling (`_` becomes `-`), checked against the flags of a command.

    Args:
        where: the command, for messages.

    Raises:
        UsageError: an unknown flag, or a flag whose value is missing or empty.
    """
    out: list[str] = []
    rest = list(args)
    while rest:
        given = rest.pop(0)
        word = _spelled(given)
        if word == "--":
            return [*out, word, *rest]
        if not word.startswith("-") or word == "-" or _is_number(word):
            out.append(word)
            continue
        name, equals, value = word.partition("=")
        if not word.startswith("--") and len(word) > 2 and name not in flags.every:
            name, equals, value = word[:2], "=", word[2:].removeprefix("=")
        if name not in flags.every:
            raise _unknown_flag(name, flags, where, given)
        if name in flags.plain:
            if equals:
                raise UsageError(f"{where}: {name} takes no value", hint=f"write {name} alone", key=name)
            out.append(name)
            continue
        if not equals:
            if not rest or _is_flag(rest[0], flags.every):
                raise _no_value(name, rest[0] if rest else None, where)
            value = rest.pop(0)
        if not value.strip() and name not in flags.may_be_empty:
            raise _no_value(name, "", where)
        if name == "-o" and flags.settings and "=" in value:
            out.append(value)
        else:
            out += [name, value]
    return out


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _no_value(name: str, found: str | None, where: str) -> UsageError:
    if found is None:
        what = "has no value, the line ends there; is the variable behind it empty?"
    elif found:
        what = f"has no value, {_spelled(found).partition('=')[0]} follows; is the variable before it empty?"
    else:
        what = "has an empty value; is the variable behind it empty?"
    return UsageError(
        f"{where}: {name} {what}", hint=f"echo the variable, then see: {where} --help", key=name
    )


def _unknown_flag(name: str, flags: Flags, where: str, given: str) -> UsageError:
    known = sorted(flags.every)
    setting = given.lstrip("-")
    if flags.settings and "." in name:
        return UsageError(
            f"{where}: {name.partition('=')[0]} is no flag; settings of the spec are written without hyphens",
            hint=setting if "=" in setting else f"{setting}=<value>",
            key=name,
        )
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return UsageError(
        f"{where}: there is no flag {name}; "
        + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"),
        hint=f"{where} --help",
        key=name,
        allowed=known,
    )
