"""Flags in both spellings, in any position; a value that an empty variable left out is named."""

import pytest

from skillbank.errors import UsageError
from skillbank_runners.cli.argv import Flags, asks_for_help, flag_values, tidy

FLAGS = Flags(
    plain=frozenset({"--wait"}),
    valued=frozenset({"--job-type", "--workspace-id", "--specs", "-e", "--description", "-o"}),
    may_be_empty=frozenset({"--description"}),
    settings=True,
)


def cleaned(*args: str) -> list[str]:
    return tidy(args, FLAGS, "tao x create-job")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--job_type", "dataset"], ["--job-type", "dataset"]),
        (["--job_type=data_set"], ["--job-type", "data_set"]),
        (["a.b_c=1", "-e", "spec_2d.yaml"], ["a.b_c=1", "-e", "spec_2d.yaml"]),
        (["-especs.yaml"], ["-e", "specs.yaml"]),
        (["-e=specs.yaml"], ["-e", "specs.yaml"]),
        (["--specs", '{"a_b": 1}'], ["--specs", '{"a_b": 1}']),
        (["--specs", "--not-a-flag-of-ours"], ["--specs", "--not-a-flag-of-ours"]),
        (["--description", ""], ["--description", ""]),
        (["a=-1", "-1", "-2.5e-3"], ["a=-1", "-1", "-2.5e-3"]),
        (["--wait", "--", "--specs"], ["--wait", "--", "--specs"]),
        (["-o", "train.lr=1e-4", "-o", "json"], ["train.lr=1e-4", "-o", "json"]),
    ],
)
def test_spelling_and_position(given: list[str], expected: list[str]) -> None:
    assert cleaned(*given) == expected


@pytest.mark.parametrize(
    ("given", "flag", "says"),
    [
        (
            ["--workspace-id", "--specs", "x"],
            "--workspace-id",
            "--specs follows; is the variable before it empty?",
        ),
        (["--workspace_id", "--wait"], "--workspace-id", "--wait follows"),
        (["--workspace-id", ""], "--workspace-id", "empty value; is the variable behind it empty?"),
        (["--workspace-id="], "--workspace-id", "empty value"),
        (["--workspace-id", "  "], "--workspace-id", "empty value"),
        (["--wait", "--specs"], "--specs", "the line ends there; is the variable behind it empty?"),
        (["-e"], "-e", "the line ends there"),
    ],
)
def test_empty_variables_name_the_flag(given: list[str], flag: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        cleaned(*given)
    assert caught.value.key == flag
    assert f"tao x create-job: {flag} has" in caught.value.message
    assert says in caught.value.message
    assert caught.value.exit_code == 2


def test_unknown_flag_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="no flag --workspace; did you mean --workspace-id"):
        cleaned("--workspace", "x")
    with pytest.raises(UsageError, match="no flag --zzz; known are --description, --help, --job-type"):
        cleaned("--zzz")
    with pytest.raises(UsageError, match="--wait takes no value"):
        cleaned("--wait=yes")


def test_a_setting_with_hyphens_is_told_from_a_flag() -> None:
    with pytest.raises(UsageError, match=r"--train\.num-epochs is no flag; settings") as caught:
        cleaned("--train.num_epochs=5")
    assert caught.value.hint == "train.num_epochs=5"
    with pytest.raises(UsageError, match="is no flag") as caught:
        cleaned("--train.num_epochs", "5")
    assert caught.value.hint == "train.num_epochs=<value>"


def test_flag_values_do_not_need_the_command() -> None:
    args = ["--output=json", "-o", "yaml", "-oid", "--encryption_key", "s3cret", "--", "-o", "table"]
    assert flag_values(args, "-o", "--output") == ["json", "yaml", "id"]
    assert flag_values(args, "--encryption-key") == ["s3cret"]
    assert flag_values(["-o"], "-o") == []


def test_help_is_a_flag_and_not_a_value() -> None:
    assert asks_for_help(["-e", "x", "-h"], {"-e"})
    assert not asks_for_help(["--job_type", "-h"], {"--job-type"})
    assert not asks_for_help(["--", "--help"])
