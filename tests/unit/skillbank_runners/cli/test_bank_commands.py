"""Networks, skills, generated files, the machine, data, routing."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from skillbank.errors import SkillBankError
from skillbank.runtime import is_installed
from skillbank.specs import network_names
from skillbank_runners.cli.gen_trt_engine import main as gen_trt_engine

ROOT = Path(__file__).resolve().parents[4]


def test_networks_say_whether_they_can_run(cli: Callable) -> None:
    rows = cli("skillbank", "networks").json()
    assert [row["name"] for row in rows] == network_names()
    assert all(isinstance(row["implementation"], bool) for row in rows)
    assert "train" in rows[0]["actions"]


def test_errors_are_listed_with_their_codes(cli: Callable) -> None:
    rows = cli("skillbank", "errors").json()
    codes = {row["code"]: row["exit_code"] for row in rows}
    assert codes["spec.unknown-key"] == 3
    assert codes["backend.runtime-missing"] == 5
    every: set[str] = set()
    kinds = [SkillBankError]
    while kinds:
        kinds += kinds.pop().__subclasses__()
        every |= {kind.code for kind in kinds if kind.__module__ == "skillbank.errors"}
    assert set(codes) == every


def test_doctor_names_a_fix_behind_everything_that_is_missing(
    cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "ACCESS_KEY", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    checks = {row["check"]: row for row in cli("skillbank", "doctor").json()}
    assert checks["program"]["ok"]
    assert checks["store"]["ok"]
    assert not checks["s3"]["ok"]
    assert checks["s3"]["status"] == "optional"
    assert checks["program"]["status"] == "ok"
    optional = {"optional", "ok", "not in this version"}
    assert {
        row["status"] for name, row in checks.items() if name.startswith(("extra", "network"))
    } <= optional
    assert all(row["fix"] for row in checks.values() if not row["ok"])
    assert checks["extra trt"]["ok"] or "skillbank[trt]" in checks["extra trt"]["fix"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-shown-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "never-shown-2")
    seen = cli("skillbank", "doctor")
    assert {row["check"]: row["ok"] for row in seen.json()}["s3"]
    assert "never-shown" not in seen.out


def test_cluster_nodes(cli: Callable) -> None:
    (node,) = cli("tao", "cluster", "nodes").json()
    assert node["gpus_per_node"] >= 0
    assert node["cpus"] >= 1
    assert (node["backend"], node["status"]) == ("local", "ready")


def test_skills(cli: Callable) -> None:
    names = cli("skillbank", "skills", "list", "-o", "id").out.split()
    assert "tao-setup" in names
    assert len(names) == len(list((ROOT / "skills").glob("*/SKILL.md")))
    assert cli("skillbank", "skills", "path", "tao-setup").out == f"{ROOT / 'skills/tao-setup'}\n"
    assert (
        cli("skillbank", "skills", "show", "tao-setup").out
        == (ROOT / "skills/tao-setup/SKILL.md").read_text()
    )
    unknown = cli("skillbank", "skills", "show", "tao-setp")
    assert unknown.code == 4
    assert "hint: skillbank skills show tao-setup" in unknown.err


def test_skills_are_validated_and_faults_found(
    cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "skills" / "tao-setup", tmp_path / "skills" / "tao-setup")
    (tmp_path / "schemas").mkdir()
    monkeypatch.setattr("skillbank.bank.bank_root", lambda: tmp_path)
    assert cli("skillbank", "skills", "validate").json() == [
        {"name": "tao-setup", "ok": True, "problems": []}
    ]
    path = tmp_path / "skills" / "tao-setup" / "SKILL.md"
    text = path.read_text()
    path.write_text(
        text.replace("name: tao-setup", "name: other\ntags: [a]", 1) + "\n[gone](references/gone.md)\n"
    )
    seen = cli("skillbank", "skills", "validate", "tao-setup")
    assert seen.code == 3
    (row,) = seen.json()
    problems = " | ".join(row["problems"])
    assert not row["ok"]
    for says in ("'other' is not the folder's name", "frontmatter keys tags", "link to references/gone.md"):
        assert says in problems
        assert says in seen.err
    path.write_text("no frontmatter\n")
    assert "no frontmatter" in cli("skillbank", "skills", "validate").err


def test_generate_writes_and_checks_a_checkout(cli: Callable, tmp_path: Path) -> None:
    for folder in ("skills", "references", "schemas"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    words = ("skillbank", "generate", "--root", str(tmp_path))
    assert cli(*words).code == 0
    clean = cli(*words, "--check")
    assert clean.code == 0
    assert "generated files are up to date" in clean.err
    assert cli(*words).err == "0 files written\n"
    reference = tmp_path / "references" / "cli.md"
    reference.write_text(reference.read_text() + "edited\n")
    stale = cli(*words, "--check")
    assert stale.code == 3
    assert "stale: references/cli.md" in stale.err
    assert cli("skillbank", "generate", "--root", str(tmp_path / "nowhere")).code == 4


def test_overrides_and_what_is_missing(cli: Callable) -> None:
    words = (
        "skillbank",
        "overrides",
        "nvpanoptix3d",
        "train",
        "--format",
        "front3d",
        "--train",
        "s3://bucket/train",
    )
    refused = cli(*words)
    assert refused.code == 3
    assert "dataset.val.json_path" in refused.err
    found = cli(*words, "--eval", "s3://bucket/eval").json()
    assert found["dataset.train.json_path"] == "s3://bucket/train/meta/train.json"


def test_overrides_without_format_are_those_of_the_default_format(cli: Callable) -> None:
    words = ("skillbank", "overrides", "mask2former", "train", "--train", "/t", "--eval", "/v")
    found = cli(*words).json()
    assert found["dataset.train.type"] == found["dataset.val.type"] == "coco_panoptic"
    assert found == cli(*words, "--format", "coco_panoptic").json()


def test_data_check_lists_all_that_is_missing(cli: Callable, tmp_path: Path) -> None:
    words = (
        "skillbank",
        "data",
        "check",
        "mask2former",
        "train",
        "--format",
        "coco",
        "--train",
        str(tmp_path),
    )
    missing = cli(*words, "--eval", str(tmp_path))
    assert missing.code == 3
    assert "annotations.json" in missing.err
    assert "images.tar.gz" in missing.err
    for name in ("annotations.json", "label_map.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "image.jpg").write_bytes(b"x")
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "image.jpg", "image.jpg")
    found = cli(*words, "--eval", str(tmp_path))
    assert found.code == 0, found.err
    assert str(tmp_path / "annotations.json") in {row["uri"] for row in found.json()}


def test_fetch_and_upload(cli: Callable, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "a.json").write_text("{}")
    (source / "deep" / "b.tmp").write_text("b")
    fetched = cli(
        "skillbank", "data", "fetch", (source / "a.json").as_uri(), "--to", str(tmp_path / "copy.json")
    )
    assert fetched.json()["path"] == str(tmp_path / "copy.json")
    assert (tmp_path / "copy.json").read_text() == "{}"
    again = cli("skillbank", "data", "fetch", str(source / "a.json"), "--to", str(tmp_path / "copy.json"))
    assert again.code == 2
    assert "is there already" in again.err
    assert cli("skillbank", "data", "fetch", str(tmp_path / "nowhere")).code == 4
    target = tmp_path / "target"
    sent = cli("skillbank", "data", "upload", str(source), str(target), "--exclude", "*.tmp").json()
    assert sent["files"] == 1
    assert [path.name for path in target.rglob("*") if path.is_file()] == ["a.json"]
    assert (
        cli("skillbank", "data", "upload", str(source / "a.json"), str(tmp_path / "one.json")).json()["files"]
        == 1
    )
    assert cli("skillbank", "data", "upload", str(tmp_path / "nowhere"), str(target)).code == 4


def test_policy_follows_words_and_flags(cli: Callable) -> None:
    words = ("skillbank", "policy", "mask2former", "train")
    assert cli(*words, "--request", "train it without AutoML").json()["route"] == "direct"
    assert cli(*words, "--request", "").json()["policy"] == "auto"
    assert cli(*words, "--policy", "sometimes").code == 2
    assert cli("skillbank", "policy", "mask2former", "export").json()["route"] == "direct"


def test_the_engine_builder_takes_the_documented_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [
        "--onnx_file_2d",
        "model_2d.onnx",
        "--trt_engine_2d",
        "out/model_2d.engine",
        "--workspace_gb",
        "8",
    ]
    assert gen_trt_engine([*flags, "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    block = plan["spec"]["gen_trt_engine"]
    assert block["onnx_file"] == str(tmp_path / "model_2d.onnx")
    assert block["trt_engine"] == str(tmp_path / "out/model_2d.engine")
    assert block["tensorrt"]["workspace_size"] == 8192
    assert gen_trt_engine(["--onnx_file_2d", "model_2d.onnx"]) == 2
    assert gen_trt_engine(["--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: gen_trt_engine.py [OPTIONS]")


@pytest.mark.skipif(
    is_installed("tensorrt") or not is_installed("torch"), reason="TensorRT is there, or PyTorch is not"
)
def test_the_engine_builder_needs_tensorrt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cli: Callable
) -> None:
    monkeypatch.setenv("SKILLBANK_NETWORKS", "stand_ins.nvpanoptix3d")
    monkeypatch.setenv("STAND_IN_IMPL", "stand_in_impl")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(
        "gen_trt_engine: {onnx_file: model_2d.onnx, trt_engine: model_2d.engine}\n"
    )
    assert gen_trt_engine(["--onnx_file_2d", "model_2d.onnx", "--trt_engine_2d", "model_2d.engine"]) == 5
    assert "skillbank[trt]" in capsys.readouterr().err
    seen = cli("tao", "nvpanoptix3d", "gen_trt_engine", "-e", "spec.yaml")
    assert (seen.code, seen.out) == (5, "")
    assert "building an engine needs TensorRT" in seen.err
