"""The documented scripts of the other networks, pasted top to bottom; the networks are stand-ins."""

import os
import shutil
from pathlib import Path

import pytest
from command_lines import lines
from document_shell import script_of_the_older_client, shell

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("jq") is None and os.environ.get("CI") != "true", reason="jq is not there"
    ),
]


def test_document_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """oneformer: the train spec serves every action, checkpoints come from a parent that may still run."""
    c = shell(tmp_path, "oneformer", monkeypatch)
    ids = c.run(
        [
            *script_of_the_older_client(c, ("C01", "C02", "C06", "C08", "C10")),
            *c.wait("TRAIN_JOB_ID", "EVAL_JOB_ID", "INFERENCE_JOB_ID", "EXPORT_JOB_ID"),
            lines()["C05"].replace("/results", "$SKILLBANK_HOME/jobs/$TRAIN_JOB_ID/results"),
            *(f"{c.line(number)} > /dev/null" for number in ("C03", "C07", "C09", "C11")),
        ]
    )
    c.assert_all_done(8)
    train = ids["TRAIN_JOB_ID"]
    for name, action in (
        ("EVAL_JOB_ID", "evaluate"),
        ("INFERENCE_JOB_ID", "inference"),
        ("EXPORT_JOB_ID", "export"),
    ):
        assert f"/{train}/" in c.spec(ids[name])[action]["checkpoint"]
    assert "oneformer_model_latest.pth" in (tmp_path / "stdout").read_text()
    assert c.store.get(train).experiment_id == "experiment-1"
    assert (c.work / "out/model.onnx").is_file()


def test_document_d(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sparse4d: flags in another order."""
    d = shell(tmp_path, "sparse4d", monkeypatch)
    ids = d.run(
        [
            *script_of_the_older_client(d, ("D03", "D04", "D05", "D06", "D07")),
            *d.wait("TRAIN_JOB_ID", "EVALUATE_JOB_ID", "INFERENCE_JOB_ID", "EXPORT_JOB_ID"),
        ]
    )
    d.assert_all_done(4)
    assert f"/{ids['TRAIN_JOB_ID']}/" in d.spec(ids["EVALUATE_JOB_ID"])["evaluate"]["checkpoint"]


def test_document_e(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mask2former: the launcher form; a second training in the same folder goes on from the link."""
    e = shell(tmp_path, "mask2former", monkeypatch)
    e.run(
        [
            *(f"{e.line(number)} > /dev/null" for number in ("E01", "E02")),
            lines()["E03"].replace("/results", "out"),
            *(f"{e.line(number)} > /dev/null" for number in ("E04", "E05", "E06")),
        ]
    )
    e.assert_all_done(5)
    assert {"mask2former_model_latest.pth", "model_epoch_002.pth"} <= set(
        (tmp_path / "stdout").read_text().split()
    )
