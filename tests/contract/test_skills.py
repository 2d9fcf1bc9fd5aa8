"""Skills: the reference validator, links, sizes, plugin manifests, and the evals that can be executed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import skills_ref

from skillbank import __version__
from skillbank.automl.policy import decide
from skillbank.evals import Case, Check, load_evals

ROOT = Path(__file__).resolve().parents[2]
SKILLS = sorted(path for path in (ROOT / "skills").iterdir() if path.is_dir())
CASES = [(skill, case) for skill in SKILLS for case in load_evals(skill).evals]
LINK = re.compile(r"\]\(([^)#]+)\)|`((?:references|schemas|scripts|evals)/[^`<*]+)`")


def test_seven_skills() -> None:
    assert [path.name for path in SKILLS] == [
        "tao-run-automl", "tao-run-jobs", "tao-setup",
        "tao-train-mask2former", "tao-train-nvpanoptix3d", "tao-train-oneformer", "tao-train-sparse4d",
    ]  # fmt: skip


@pytest.mark.parametrize("skill", SKILLS, ids=lambda path: path.name)
def test_reference_validator(skill: Path) -> None:
    assert skills_ref.validate(skill) == []


def test_reference_validator_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "tao-setup"
    bad.mkdir()
    text = (ROOT / "skills/tao-setup/SKILL.md").read_text(encoding="utf-8")
    (bad / "SKILL.md").write_text(text.replace("license:", "tags: [a]\nlicense:"), encoding="utf-8")
    assert skills_ref.validate(bad)


@pytest.mark.parametrize("skill", SKILLS, ids=lambda path: path.name)
def test_body_is_short_and_links_exist(skill: Path) -> None:
    text = (skill / "SKILL.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    for link in (first or second for first, second in LINK.findall(text)):
        if "://" not in link:
            assert (skill / link).exists(), f"{skill.name}/SKILL.md names {link}, which is not there"
    assert len(text) <= 40_000


def test_plugin_manifests_agree() -> None:
    claude = json.loads((ROOT / ".claude-plugin/plugin.json").read_text())
    market = json.loads((ROOT / ".claude-plugin/marketplace.json").read_text())
    codex = json.loads((ROOT / ".codex-plugin/plugin.json").read_text())
    assert {claude["version"], market["metadata"]["version"], codex["version"]} == {__version__}
    listed = market["plugins"][0]["skills"]
    assert [Path(path).name for path in listed] == [path.name for path in SKILLS]
    assert all(path.startswith("./") and (ROOT / path / "SKILL.md").is_file() for path in listed)
    prompts = codex["interface"]["defaultPrompt"]
    assert len(prompts) <= 3
    assert all(len(prompt) <= 128 for prompt in prompts)
    agents = json.loads((ROOT / ".agents/plugins/marketplace.json").read_text())
    assert agents["plugins"][0]["name"] == codex["name"] == claude["name"]


@pytest.mark.parametrize("skill", SKILLS, ids=lambda path: path.name)
def test_evals_cover_what_an_eval_set_needs(skill: Path) -> None:
    evals = load_evals(skill)
    kinds = [case.metadata.kind for case in evals.evals]
    assert evals.skill_name == skill.name
    assert len({case.id for case in evals.evals}) == len(evals.evals)
    assert kinds.count("positive") >= 3
    assert kinds.count("negative") >= 3
    assert kinds.count("policy") >= 2
    assert kinds.count("repair") >= 1
    assert kinds.count("executable") >= 1
    names = {path.name for path in SKILLS}
    for case in evals.evals:
        assert case.metadata.skill in names
        assert (case.metadata.skill != skill.name) == (case.metadata.kind == "negative")


@pytest.mark.parametrize(
    ("skill", "case"),
    [(skill, case) for skill, case in CASES if case.metadata.kind == "policy"],
    ids=lambda value: value.name if isinstance(value, Path) else value.id,
)
def test_policy_cases(skill: Path, case: Case) -> None:
    decision = decide(case.metadata.network, "train", policy=None, text=case.prompt)
    assert decision.route == case.metadata.route


def _found(check: Check, done: subprocess.CompletedProcess[str], folder: Path) -> object:
    """What a check looks at."""
    if check.of == "exit":
        return done.returncode
    text = {"stdout": done.stdout, "stderr": done.stderr}.get(check.of)
    if text is None:
        text = (folder / check.path).read_text(encoding="utf-8")
    if check.contains:
        return check.contains in text or text
    value = json.loads(text)
    for part in filter(None, check.query.split(".")):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


@pytest.mark.parametrize(
    ("skill", "case"),
    [(skill, case) for skill, case in CASES if case.metadata.kind in ("repair", "executable")],
    ids=lambda value: value.name if isinstance(value, Path) else value.id,
)
def test_executable_cases(skill: Path, case: Case, tmp_path: Path) -> None:
    script = "\n".join(case.metadata.commands)
    if "jq" in script and shutil.which("jq") is None:
        assert "CI" not in os.environ, "jq is missing"
        pytest.skip("jq is not installed")
    folder = tmp_path / "work"
    folder.mkdir()
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "SKILLBANK_HOME": str(tmp_path / "home"),
        },
    )  # fmt: skip
    assert case.metadata.checks, "a case without checks cannot fail"
    for check in case.metadata.checks:
        wanted = True if check.contains else check.equals
        assert _found(check, done, folder) == wanted, f"{check}\n{done.stdout}\n{done.stderr}"
