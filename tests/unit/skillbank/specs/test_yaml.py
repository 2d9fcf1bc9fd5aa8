"""YAML in and out: scalars as YAML 1.2 reads them, faults with their place, hostile texts refused."""

import math
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from skillbank.errors import SpecError
from skillbank.specs._yaml import MAX_VALUES, load_yaml, parse_text
from skillbank.specs.load import to_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1e5", 1e5), ("-1.5E+3", -1500.0), (".5", 0.5), ("3.", 3.0), ("0", 0), ("-7", -7),
        ("010", "010"), ("0o7", "0o7"), ("1_000", "1_000"), ("12:30", "12:30"), ("2001-01-01", "2001-01-01"),
        ("yes", "yes"), ("on", "on"), ("True", True), ("FALSE", False), ("~", None), ("", None), ("'1'", "1"),
        ("!!str 1", "1"), ("!!int 1", 1), ("???", "???"), ("${a.b}/c", "${a.b}/c"), ("1" * 5000, "1" * 5000),
        (".inf", math.inf),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_scalars(text: str, value: Any) -> None:
    found = load_yaml(f"key: {text}", "f")["key"]
    assert found == value
    assert type(found) is type(value)


def test_keys_are_text() -> None:
    assert load_yaml("1: a\nyes: b\nnull: c", "f") == {"1": "a", "yes": "b", "null": "c"}


def test_anchors_give_independent_values() -> None:
    found = load_yaml("a: &x [1]\nb: *x", "f")
    found["a"].append(2)
    assert found["b"] == [1]


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(20)
)
CHAIN = "k0: &k0 [1]\n" + "".join(f"k{i}: &k{i} [*k{i - 1}]\n" for i in range(1, 99))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (BOMB, f"expands to more than {MAX_VALUES} values"), (CHAIN, "nested deeper than 50"),
        ("[" * 5000 + "]" * 5000, "nested deeper than 50"), ("- " * 5000 + "a", "nested deeper than 50"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested deeper than 50"), ("a: &a [*a]", "alias *a holds itself"),
        ("a: *b", "alias *b is not defined"), ("a: !!python/object/apply:os.system [ls]", "is not supported"),
        ("a: !!binary aGk=", "is not supported"), ("<<: {a: 1}", "merge keys (<<) are not supported"),
        ("? [1]\n: 2", "a key must be a plain word"), ("'': 1", "a key is empty"),
        ("a: 1\n---\nb: 2", "line 2, column 1: a second document"),
        ("é: 1\na: \x07", "line 2, column 4: character #x07"), ("a: '\ud800'", "line 1, column 5: not UTF-8"),
        ('{"a": ' + "1" * 5000 + "}", "a number that is too long"), ('{"a" 1}', "line 1, column 6"),
    ],
    ids=lambda text: repr(text)[:24],
)  # fmt: skip
def test_hostile_and_broken_texts(text: str, wanted: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_text(text, "spec.yaml")
    assert str(caught.value).startswith("spec.yaml")
    assert wanted in str(caught.value)


def test_json_with_comments_and_flow_yaml() -> None:
    text = '{ // first\n "url": "s3://bucket/a", /* two\n lines */ "n": [1, 2]\n}'
    assert parse_text(text, "f") == {"url": "s3://bucket/a", "n": [1, 2]}
    assert parse_text("{url: s3://bucket/a, n: [1, 2,],}", "f") == {"url": "s3://bucket/a", "n": [1, 2]}
    assert parse_text('{"face": "\\ud83d\\ude00"}', "f") == {"face": "\U0001f600"}
    with pytest.raises(SpecError, match="line 3"):
        parse_text('{ // first\n "a": 1,\n "b" 2}', "f")


TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["yes", "null", "1e5", "0x1", "- a", "a: b", "#", "'", '"', "a #b", " a", "???x", "~", "{a}", "!x"]
    ),
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS.filter(bool), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None)
@given(st.dictionaries(TEXTS.filter(lambda text: text not in ("", "???")), VALUES, max_size=5))
def test_what_is_written_is_read_again(values: dict[str, Any]) -> None:
    text = to_yaml(values)
    assert load_yaml(text, "f") == values
    assert yaml.safe_load(text) == values


def test_comments_stand_above_their_keys() -> None:
    text = to_yaml({"a": {"b": 1e-5}, "c": "???"}, {"a.b": "first\nsecond", "c": "third"})
    assert text == "a:\n  # first\n  # second\n  b: 1.0e-05\n# third\nc: ???\n"


def test_long_lists_are_broken() -> None:
    values = {"ops": ["deformable"] * 20, "points": [[0.0, 0.5]] * 20, "rules": [{"name": "a", "bits": 4}]}
    text = to_yaml(values)
    assert max(map(len, text.splitlines())) <= 100
    assert load_yaml(text, "f") == values
