"""Words of a command line to commands."""

import pytest

from skillbank.errors import NotFoundError, UsageError
from skillbank_runners.cli import skillbank, tao, tao_client
from skillbank_runners.cli.table import Leaf, Table, resolve


def test_words_lead_to_commands_in_either_spelling() -> None:
    found = resolve("tao", tao.table(), ["mask2former", "list_jobs", "--limit", "1"])
    assert found.path == ("tao", "mask2former", "list_jobs")
    assert found.rest == ["--limit", "1"]
    assert isinstance(found.node, Leaf)
    assert found.node.scope.network == "mask2former"


@pytest.mark.parametrize("form", [["sparse4d", "dataset-convert"], ["model", "sparse4d", "dataset_convert"]])
def test_actions_are_words_in_both_forms(form: list[str]) -> None:
    found = resolve("tao", tao.table(), [*form, "-e", "spec.yaml"])
    assert isinstance(found.node, Leaf)
    assert (found.node.scope.network, found.node.scope.action) == ("sparse4d", "dataset_convert")


def test_resolution_stops_at_flags() -> None:
    found = resolve("skillbank", skillbank.table(), ["jobs", "--help"])
    assert isinstance(found.node, Table)
    assert found.rest == ["--help"]


@pytest.mark.parametrize(
    ("program", "words", "says"),
    [
        ("skillbank", ["job", "list"], "skillbank: there is no command 'job'; did you mean 'jobs'?"),
        ("skillbank", ["jobs", "lst"], "skillbank jobs: there is no command 'lst'; did you mean 'list'?"),
        ("tao", ["mask2former", "creat-job"], "did you mean 'create-job'?"),
        ("tao", ["mask2former", "evalute"], "did you mean 'evaluate'?"),
        ("tao", ["model", "mask2former", "create-job"], "there is no command 'create-job'"),
        (
            "tao",
            ["mask2former", ""],
            "an empty word where a command is expected; is the variable there empty?",
        ),
    ],
)
def test_unknown_commands_suggest_the_nearest(program: str, words: list[str], says: str) -> None:
    table = {"tao": tao, "skillbank": skillbank}[program].table()
    with pytest.raises(UsageError) as caught:
        resolve(program, table, words)
    assert says in caught.value.message
    assert caught.value.hint.endswith("--help")


@pytest.mark.parametrize("table", [tao.table(), tao_client.table()], ids=["tao", "tao-client"])
def test_unknown_networks_are_not_found(table: Table) -> None:
    with pytest.raises(NotFoundError, match=r"there is no network 'mask2frmer'; known are .*mask2former"):
        resolve("tao", table, ["mask2frmer", "list-jobs"])
