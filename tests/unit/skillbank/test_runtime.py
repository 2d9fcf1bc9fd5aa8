import pytest

from skillbank.errors import NotInThisVersionError, RuntimeMissingError
from skillbank.runtime import has_implementation, is_installed, require_runtime
from skillbank.specs.base import Network


def network(impl: str) -> Network:
    return Network(name="small", title="Small", summary="x", impl=impl, skill="small", actions={})


@pytest.mark.parametrize(
    ("module", "expected"),
    [("json", True), ("json.decoder", True), ("no_such_module", False), ("no_such_package.part", False)],
)
def test_asked_by_name(module: str, expected: bool) -> None:
    assert is_installed(module) == expected
    assert has_implementation(network(module)) == expected


def test_what_is_there_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skillbank.runtime.is_installed", lambda module: True)

    require_runtime(network("json"), route="automl")


@pytest.mark.parametrize(
    ("missing", "route", "words"),
    [
        ("torch", "direct", "PyTorch"),
        ("json", "direct", "no implementation of small"),
        ("optuna", "automl", "Optuna"),
    ],
)
def test_what_is_missing_is_named_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch, missing: str, route: str, words: str
) -> None:
    monkeypatch.setattr("skillbank.runtime.is_installed", lambda module: module != missing)

    with pytest.raises(RuntimeMissingError, match=words) as caught:
        require_runtime(network("json"), route=route)

    assert caught.value.hint
    assert caught.value.key == missing


def test_direct_training_needs_no_search_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skillbank.runtime.is_installed", lambda module: module != "optuna")

    require_runtime(network("json"))


def test_a_network_that_is_not_here_comes_before_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skillbank.runtime.is_installed", lambda module: False)

    with pytest.raises(NotInThisVersionError, match="there is nothing to install") as caught:
        require_runtime(network("json"))

    assert "pip" not in caught.value.hint
    assert caught.value.code == "backend.not-in-this-version"
    assert caught.value.exit_code == 5
