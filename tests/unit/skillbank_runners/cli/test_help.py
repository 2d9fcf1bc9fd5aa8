"""Every command has help with an example that it accepts itself, and the reference holds all of them."""

import shlex
from collections.abc import Callable

import pytest

from skillbank_runners.cli.app import command_of, flags_of
from skillbank_runners.cli.argv import tidy
from skillbank_runners.cli.helptext import examples
from skillbank_runners.cli.reference import commands, executables, render
from skillbank_runners.cli.table import Leaf, Table, resolve

EVERY = dict(commands())
LEAVES = {where: node for where, node in EVERY.items() if isinstance(node, Leaf)}


def test_the_tables_are_not_empty() -> None:
    assert len(LEAVES) > 50
    assert {where.split()[0] for where in LEAVES} == {"tao", "tao-client", "skillbank"}


@pytest.mark.parametrize("where", sorted(EVERY))
def test_help_with_an_example_that_works(where: str) -> None:
    node = EVERY[where]
    lines = [node.example] if isinstance(node, Table) else examples(node.function().__doc__ or "")
    assert lines, f"{where} has no example"
    for line in lines:
        program, *words = shlex.split(line.partition(" > ")[0].partition(" | ")[0])
        found = resolve(program, executables()[program], words)
        assert isinstance(found.node, Leaf), line
        if isinstance(node, Leaf):
            assert found.node.target == node.target, f"the example of {where} shows another command"
        command = command_of(found.node)
        command.make_context("x", tidy(found.rest, flags_of(command), where), obj=found.node.scope)


@pytest.mark.parametrize("where", sorted(where for where, node in LEAVES.items() if "NETWORK" not in where))
def test_help_pages_show_usage_options_and_example(where: str, cli: Callable) -> None:
    program, *words = where.split()
    for flag in ("-h", "--help"):
        page = cli(program, *words, flag)
        assert page.code == 0
        assert page.out.startswith(f"Usage: {where} ")
        assert "\nExample:\n  " in page.out
        assert "-h, --help" in page.out
        assert page.err == ""


def test_help_of_an_action_lists_popular_keys_with_defaults(cli: Callable) -> None:
    page = cli("tao", "model", "mask2former", "train", "-h")
    assert page.code == 0
    rows = {line.split()[0]: line for line in page.out.splitlines() if line.startswith("  train.")}
    assert "10" in rows["train.num_epochs"]
    assert "Total number of epochs" in rows["train.num_epochs"]
    needed = cli("tao", "sparse4d", "dataset_convert", "--help")
    assert "aicity.root" in needed.out


def test_the_reference_holds_every_command_once() -> None:
    text = render()
    for where, node in EVERY.items():
        rest = "COMMAND ..." if isinstance(node, Table) else "[OPTIONS]"
        assert text.count(f"\nUsage: {where} {rest}") == 1, where
    assert text == render()
    assert "mask2former  " not in text, "the reference must not depend on the networks that are there"


def test_a_missing_command_shows_the_page_and_is_a_usage_error(cli: Callable) -> None:
    seen = cli("skillbank", "jobs")
    assert (seen.code, seen.out) == (2, "")
    assert "Usage: skillbank jobs COMMAND ..." in seen.err
    assert "error: skillbank jobs: a command is missing" in seen.err
    assert cli("skillbank", "--wait").err.startswith(
        "error: skillbank: a command is expected before '--wait'"
    )
    assert cli("skillbank", "jobs", "--help").out.startswith("Usage: skillbank jobs COMMAND")


@pytest.mark.parametrize("program", ["tao", "tao-client", "skillbank"])
def test_version(program: str, cli: Callable) -> None:
    from skillbank import __version__

    assert cli(program, "--version").out == f"{program} {__version__}\n"
