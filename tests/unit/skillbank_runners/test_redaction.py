"""No secret in anything a worker prints."""

import logging
import sys
import warnings

import pytest

from skillbank_runners.redaction import Redactor
from skillbank_runners.talk import talking

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "aws-secret-value",
    "HF_TOKEN": "hf_tokenvalue",
    "NGC_API_KEY": "ngc-api-value",
    "PATH": "/usr/bin",
}


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(SECRETS, key="nvidia_tlt")


def test_every_way_out_is_cleaned(redactor: Redactor, capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("skillbank_runners.test")
    with talking(redactor):
        log.info("key %s and %r", "nvidia_tlt", {"token": "hf_tokenvalue"})
        try:
            raise ValueError("cannot open s3 with aws-secret-value")
        except ValueError:
            log.exception("failed with %d", 7)
        print("printed ngc-api-value", file=sys.stderr)
        print("data nvidia_tlt")
        sys.stderr.writelines(["one hf_tokenvalue\n"])
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            warnings.warn("careful with nvidia_tlt", stacklevel=1)
    out, err = capsys.readouterr()
    for secret in ("nvidia_tlt", *(value for name, value in SECRETS.items() if name != "PATH")):
        assert secret not in out + err
    assert "key *** and {'token': '***'}" in err
    assert "ValueError: cannot open s3 with ***" in err
    assert "failed with 7" in err
    assert "printed ***" in err
    assert "one ***" in err
    assert "careful with ***" in err
    assert out == "data ***\n"


def test_what_is_no_secret_stays(redactor: Redactor) -> None:
    assert redactor.clean({"path": "/usr/bin", "n": 3, "list": ["x nvidia_tlt"]}) == {
        "path": "/usr/bin",
        "n": 3,
        "list": ["x ***"],
    }


def test_streams_and_loggers_are_as_before_afterwards(redactor: Redactor) -> None:
    root = logging.getLogger()
    before = sys.stdout, sys.stderr, list(root.handlers), root.level

    def work() -> None:
        with talking(redactor):
            assert sys.stderr is not before[1]
            assert not sys.stderr.isatty()
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert (sys.stdout, sys.stderr, list(root.handlers), root.level) == before


def test_further_processes_say_only_what_went_wrong(
    redactor: Redactor, capsys: pytest.CaptureFixture[str]
) -> None:
    with talking(redactor, process=1):
        logging.getLogger("skillbank_runners.test").info("epoch done")
        logging.getLogger("skillbank_runners.test").error("broken")
    err = capsys.readouterr().err
    assert "epoch done" not in err
    assert err.startswith("[process 1] ")
    assert "broken" in err
