"""The spec classes and the JSON Schemas accept the same specs: thousands of random ones, for every action."""

import random
from collections import Counter
from typing import Any

import pytest
import spec_makers
from jsonschema import Draft202012Validator

from skillbank.errors import ConflictError, MissingValueError, SkillBankError, SpecError
from skillbank.generate.schemas import action_schema
from skillbank.specs import networks
from skillbank.specs.load import Layer, build_spec, canonical

PAIRS = [(network.name, action) for network in networks() for action in network.actions]
VALID = 40
BROKEN = 30
SEED = 20_24


def class_accepts(network: str, action: str, values: dict[str, Any]) -> bool:
    """Whether the spec class takes the values, leaving out relations, which a schema cannot express."""
    try:
        build_spec(network, action, [Layer("file", "spec.yaml", values)])
    except SpecError as err:
        return all(is_relation(network, problem) for problem in err.problems or [err])
    return True


def is_relation(network: str, problem: SkillBankError) -> bool:
    """Whether a problem comes from a rule of the network."""
    for rule in next(found for found in networks() if found.name == network).rules:
        kind = MissingValueError if rule.missing else ConflictError
        if isinstance(problem, kind) and problem.message.startswith(f"{' and '.join(rule.keys)}: "):
            return True
    return False


def disagreements(
    network: str, action: str, schema: dict[str, Any], rng: random.Random, counts: Counter[str]
) -> list[str]:
    """Specs on which class and schema differ; `counts` gets what was seen."""
    validator = Draft202012Validator(schema)
    found = []
    kinds = ["valid"] * VALID + [fault for fault in spec_makers.FAULTS for _ in range(BROKEN)]
    for number, kind in enumerate(kinds):
        if kind == "valid":
            spec = spec_makers.valid(schema, rng, (0.05, 0.2, 0.9)[number % 3])
        else:
            spec = spec_makers.broken(schema, rng, kind)
        try:
            values, _ = canonical(network, action, spec)
        except SpecError:
            counts["refused before"] += 1
            continue
        by_schema = validator.is_valid(values)
        by_class = class_accepts(network, action, values)
        counts[f"{kind}: {'accepted' if by_schema else 'refused'}"] += 1
        if kind == "valid" and not by_schema:
            found.append(f"the maker made {values}: {next(validator.iter_errors(values)).message}")
        if by_schema != by_class:
            found.append(f"{kind}: schema {by_schema}, class {by_class}: {values}")
    return found


def seen_and_differing(pairs: list[tuple[str, str]]) -> tuple[Counter[str], dict[str, list[str]]]:
    counts: Counter[str] = Counter()
    differing = {}
    for network, action in pairs:
        rng = random.Random(f"{SEED} {network} {action}")
        found = disagreements(network, action, action_schema(network, action), rng, counts)
        if found:
            differing[f"{network} {action}"] = found
    return counts, differing


@pytest.mark.parametrize("network", sorted({network for network, _ in PAIRS}))
def test_class_and_schema_agree(network: str) -> None:
    pairs = [pair for pair in PAIRS if pair[0] == network]
    counts, differing = seen_and_differing(pairs)
    assert not differing
    wanted = len(pairs) * (VALID + BROKEN * len(spec_makers.FAULTS))
    assert sum(counts.values()) == wanted
    assert counts["refused before"] < wanted // 20
    assert counts["valid: accepted"] == VALID * len(pairs)
    assert counts["valid: refused"] == 0
    for fault in spec_makers.FAULTS:
        assert counts[f"{fault}: refused"] > BROKEN // 6, fault
    assert sum(number for kind, number in counts.items() if kind.endswith("refused")) > wanted // 4


def test_thousands_are_compared() -> None:
    assert len(PAIRS) * (VALID + BROKEN * len(spec_makers.FAULTS)) > 4000


def test_every_kind_of_field_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKILLBANK_NETWORKS", "plain_network")
    counts, differing = seen_and_differing(
        [("plain", action) for action in ("train", "evaluate", "export")] * 3
    )
    assert not differing
    assert counts["valid: accepted"] == VALID * 9


PLANTS = {
    "a bound": lambda schema: schema["properties"]["train"]["properties"]["num_epochs"].update(minimum=2),
    "a type": lambda schema: schema["properties"]["train"]["properties"]["fast"].update(
        type=["boolean", "null"]
    ),
    "an option": lambda schema: schema["properties"]["train"]["properties"]["precision"]["enum"].append(
        "text"
    ),
    "an unknown key": lambda schema: schema["properties"]["train"]["properties"]["optim"].update(
        additionalProperties=True
    ),
    "a mandatory key": lambda schema: schema["properties"]["dataset"].update(required=[]),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_disagreement_is_found(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKILLBANK_NETWORKS", "plain_network")
    schema = action_schema("plain", "train")
    PLANTS[plant](schema)
    found: list[str] = []
    for round_ in range(12):
        found += disagreements("plain", "train", schema, random.Random(round_), Counter())
        if found:
            break
    assert any("schema" in line for line in found)
