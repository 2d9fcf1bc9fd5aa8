"""Machine facts of every network: keys exist in the spec classes, files and names are consistent."""

from dataclasses import replace
from pathlib import Path

import pytest

from skillbank.errors import DataError, NotFoundError
from skillbank.skill_info import Link, SourceRule, load_skill_info, skill_dir
from skillbank.specs import networks
from skillbank.specs.base import Network, field_note, walk

NETWORKS = [network for network in networks() if network.skill_path is None]
IDS = [network.name for network in NETWORKS]
pytestmark = pytest.mark.parametrize("network", NETWORKS, ids=IDS)


def keys(network: Network, action: str) -> set[str]:
    return {key for key, _, nested in walk(network.actions[action]) if nested is None}


def origins(rule: SourceRule) -> int:
    # A conversion job is looked up through the dataset it made, so its rule may name the dataset too.
    source = rule.source if rule.convert_job is None else None
    return sum(map(bool, (source, rule.value is not None, rule.value_from_metadata, rule.convert_job)))


def test_the_head_names_skill_and_network(network: Network) -> None:
    info = load_skill_info(network)
    assert (info.name, info.type, info.network_arch) == (network.skill, "model", network.name)
    assert info.name == skill_dir(network).name
    assert info.automl_enabled
    assert info.description.endswith(".")
    assert all(note.endswith(".") for note in info.notes)
    assert info.data_format in info.data_formats


def test_actions_are_those_of_the_spec_classes(network: Network) -> None:
    info = load_skill_info(network)
    assert list(info.actions) == list(network.actions)
    assert set(info.spec_templates) == set(network.actions)
    for action, facts in info.actions.items():
        assert facts.command == f"tao model {network.name} {action} -e {{config_path}}"
        assert facts.upload_excludes
        known = keys(network, action)
        assert set(facts.inputs) <= known, action
        assert set(facts.outputs) <= known, action
        assert "results_dir" in facts.outputs
        assert all(ending.startswith(".") for ending in (*facts.accepts, *facts.produces))
        assert info.spec_templates[action] == f"references/spec_template_{action}.yaml"


def test_mandatory_files_are_declared_as_inputs_or_outputs(network: Network) -> None:
    for action, spec in network.actions.items():
        facts = load_skill_info(network).actions[action]
        for key, info, _ in walk(spec):
            if action in field_note(info).mandatory_for:
                assert key in facts.inputs or key in facts.outputs, f"{action}: {key}"


def test_data_sources_name_keys_and_one_origin_each(network: Network) -> None:
    info = load_skill_info(network)
    assert info.data_sources["train"]
    for action, rules in info.data_sources.items():
        assert set(rules) <= keys(network, action), action
        for key, rule in rules.items():
            assert origins(rule) == 1, f"{action}: {key}"
            assert not rule.alternatives or rule.source, f"{action}: {key}"


def test_conditions_name_known_formats(network: Network) -> None:
    info = load_skill_info(network)
    for rules in info.data_sources.values():
        for key, rule in rules.items():
            named = {*rule.path_from_format} - {"*"}
            if rule.conditional and rule.conditional.metadata_key == "dataset_format":
                named |= {*rule.conditional.equals, *rule.conditional.not_equals}
            assert named <= set(info.data_formats), key


def test_spec_params_name_keys(network: Network) -> None:
    info = load_skill_info(network)
    for action in network.actions:
        params = info.spec_params[action]
        assert set(params) <= keys(network, action), action
        assert params["results_dir"] == "output_dir"
        assert all(isinstance(value, Link) or value for value in params.values())


def test_short_names_are_single_words_for_keys(network: Network) -> None:
    short = load_skill_info(network).spec_shorthand_keys
    assert len(short) >= 12
    assert set(short.values()) <= set().union(*(keys(network, action) for action in network.actions))
    assert len(set(short.values())) == len(short)
    roots = set(network.actions["train"].model_fields)
    assert all(name.isidentifier() and name not in roots for name in short)


def test_gpu_keys_exist(network: Network) -> None:
    info = load_skill_info(network)
    assert {info.gpu_spec_key, info.node_spec_key} <= keys(network, "train")


def test_a_misspelt_key_in_the_file_is_an_error(network: Network, tmp_path: Path) -> None:
    text = (skill_dir(network) / "references" / "skill_info.yaml").read_text(encoding="utf-8")
    (tmp_path / "references").mkdir()
    (tmp_path / "references" / "skill_info.yaml").write_text(text + "containr_image: x\n", encoding="utf-8")
    with pytest.raises(DataError, match="containr_image"):
        load_skill_info(replace(network, skill_path=tmp_path))


def test_a_missing_file_is_an_error(network: Network, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"skill_info\.yaml"):
        load_skill_info(replace(network, skill_path=tmp_path))
