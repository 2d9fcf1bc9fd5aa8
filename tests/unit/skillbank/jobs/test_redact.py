import pytest

from skillbank.errors import InvalidValueError
from skillbank.jobs.record import Request
from skillbank.jobs.redact import digest, is_secret_name, scrub, secret_values, without_secrets


def test_names_of_secrets_are_told_from_others() -> None:
    secret = [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "HF_TOKEN",
        "wandb_api_key",
        "DB_PASSWORD",
        "S3_SECRET_KEY",
    ]
    plain = [
        "OMP_NUM_THREADS",
        "TOKENIZERS_PARALLELISM",
        "AWS_SHARED_CREDENTIALS_FILE",
        "MONKEY",
        "AWS_DEFAULT_REGION",
    ]
    assert [name for name in secret if not is_secret_name(name)] == []
    assert [name for name in plain if is_secret_name(name)] == []


def test_the_key_leaves_spec_and_overrides_and_the_override_wins() -> None:
    request = Request(
        network="n",
        action="a",
        specs={"encryption_key": "spec", "train": {"lr": 1}},
        overrides={"encryption_key": "override", "train": {"encryption_key": ""}, "train.lr": 2},
        env={"TOKEN": "x", "A": "b"},
    )
    clean, key = without_secrets(request)
    assert key == "override"
    assert clean.specs == {"train": {"lr": 1}}
    assert clean.overrides == {"train": {}, "train.lr": 2}
    assert clean.env == {"A": "b"}


def test_a_request_without_key_has_none() -> None:
    assert without_secrets(Request(network="n", action="a", specs={"encryption_key": None}))[1] is None


@pytest.mark.parametrize("key", [["hidden-9917"], {"a": "hidden-9917"}, True])
def test_a_key_that_is_no_text_is_refused_and_not_shown(key: object) -> None:
    for request in (
        Request(network="toy", action="train", specs={"encryption_key": key}),
        Request(network="toy", action="train", overrides={"encryption_key": key}),
    ):
        with pytest.raises(InvalidValueError, match=r"encryption_key: a .* is not allowed") as caught:
            without_secrets(request)
        assert "hidden-9917" not in str(caught.value.to_dict())


def test_known_values_are_blanked_out_of_texts_and_maps() -> None:
    hidden = secret_values(
        {"MY_TOKEN": "abcdefgh", "OTHER": "plain-value", "PASSWORD": "short"}, "the-key", None
    )
    assert set(hidden) == {"abcdefgh", "the-key"}
    said = {
        "message": "abcdefgh and the-key",
        "list": ["abcdefgh"],
        "number": 3,
        "plain": "plain-value short",
    }
    assert scrub(said, hidden) == {
        "message": "*** and ***",
        "list": ["***"],
        "number": 3,
        "plain": "plain-value short",
    }
    assert scrub(None, hidden) is None


def test_the_digest_has_a_salt_and_hides_the_key() -> None:
    assert digest("nvidia_tlt") != digest("nvidia_tlt")
    assert "nvidia" not in digest("nvidia_tlt")


@pytest.mark.parametrize(
    "name",
    ["NGC_KEY", "KEY", "DB_PASS", "PASSPHRASE", "MYSQL_PWD", "GITHUB_PAT", "AUTHORIZATION", "S3_SECRET_KEY"],
)
def test_names_of_secrets_without_the_word_are_known(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["PWD", "OLDPWD", "KEYBOARD", "PATH", "SSH_KEY_FILE", "COMPASS"])
def test_names_that_only_look_like_secrets(name: str) -> None:
    assert not is_secret_name(name)
