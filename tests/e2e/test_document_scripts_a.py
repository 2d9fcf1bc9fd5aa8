"""The documented scripts of nvpanoptix3d, pasted top to bottom; the network is a stand-in."""

import os
import shutil
from pathlib import Path

import pytest
from command_lines import lines
from document_shell import shell

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("jq") is None and os.environ.get("CI") != "true", reason="jq is not there"
    ),
]


def test_document_a_in_two_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvpanoptix3d as a service: two stages, evaluation, inference, export, none waited for in between."""
    a = shell(tmp_path, "nvpanoptix3d", monkeypatch)
    script = [
        a.line("A01"), a.line("A02"),
        'printf %s "$STAGE1_SPECS" > stage1_spec.yaml  # reader',
        a.line("A03"), a.line("A09"),
        'jq ".dataset.enable_3d = true" <<<"$STAGE2_SPECS" > stage2_spec.yaml  # reader',
        a.line("A10"), a.line("A14"),
        'printf %s "$EVALUATE_SPECS" > eval_spec.yaml  # reader',
        a.line("A15"), a.line("A17"),
        'printf %s "$INFERENCE_SPECS" > inference_spec.yaml  # reader',
        a.line("A18"), a.line("A20"),
        'printf %s "$EXPORT_SPECS" > export_spec.yaml  # reader',
        a.line("A21"),
        *a.wait("STAGE1_JOB_ID", "STAGE2_JOB_ID", "EVAL_JOB_ID", "INFER_JOB_ID", "EXPORT_JOB_ID"),
        lines()["A13"].replace("/results", "$SKILLBANK_HOME/jobs/$STAGE1_JOB_ID/results"),
    ]  # fmt: skip
    ids = a.run(script)
    a.assert_all_done(5)
    stage1, stage2 = ids["STAGE1_JOB_ID"], ids["STAGE2_JOB_ID"]
    assert f"/{stage1}/" in a.spec(stage2)["train"]["checkpoint_2d"]
    assert a.spec(stage2)["dataset"]["enable_3d"] is True
    assert f"/{stage2}/" in a.spec(ids["EVAL_JOB_ID"])["evaluate"]["checkpoint"]
    assert a.spec(ids["EVAL_JOB_ID"])["dataset"]["test"]["json_path"] == str(a.data / "meta" / "test.json")
    assert a.spec(ids["EXPORT_JOB_ID"])["export"]["onnx_file_2d"].endswith("model_2d.onnx")
    listed = (tmp_path / "stdout").read_text().split()
    assert {"model_epoch_000.pth", "model_epoch_001.pth", "panoptic_recon_3d_model_latest.pth"} <= set(listed)
    assert a.store.artifacts(ids["EXPORT_JOB_ID"], "onnx")


def test_document_a_in_the_foreground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvpanoptix3d as a launcher: every line runs to its end before the next."""
    a = shell(tmp_path, "nvpanoptix3d", monkeypatch)
    numbers = ("A06", "A11", "A12", "A16", "A19", "A22")
    a.run([f"{a.line(number)} | jq -r .state >> states" for number in numbers])
    assert (a.work / "states").read_text().split() == ["done"] * len(numbers)
    a.assert_all_done(len(numbers))
    assert (a.work / "results/stage2/train/nvpanoptix3d_model_latest.pth").is_file()
    assert (a.work / "inference_results/inference/predictions.json").is_file()
    assert (a.work / "output/model_2d.onnx").read_bytes() == b"onnx"
