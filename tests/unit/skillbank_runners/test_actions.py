"""Actions other than training, and which form of an action runs."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import toy_impl
from toy_run import LIGHTNING_WARNING, run_toy

from skillbank.errors import InvalidValueError, MissingValueError, NotFoundError, RuntimeMissingError
from skillbank_models.protocol import ActionContext
from skillbank_runners.actions.context import Running

pytestmark = pytest.mark.filterwarnings(LIGHTNING_WARNING)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with points and a checkpoint that tells most of them right."""
    folder = tmp_path_factory.mktemp("trained")
    points = toy_impl.write_points(folder / "points.txt", 60)
    run_toy(folder / "train", dataset__train_file=str(points), train__num_epochs=15)
    return folder


def settings(trained: Path, action: str) -> dict[str, Any]:
    return {
        "dataset__test_file": str(trained / "points.txt"),
        f"{action}__checkpoint": str(trained / "train" / "toy_model_latest.pth"),
    }


def test_evaluation_reports_in_three_places(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    done = run_toy(tmp_path / "evaluate", "evaluate", **settings(trained, "evaluate"))
    content = json.loads((done.folder / "metrics.json").read_text())
    accuracy = content["metrics"]["accuracy"]
    assert 0.8 < accuracy <= 1
    assert content["network"] == "toy"
    assert content["checkpoint"].endswith("toy_model_latest.pth")
    assert done.events[-1]["kpi"] == {"accuracy": accuracy}
    (artifact,) = done.artifacts
    assert (artifact.path.name, artifact.kind, artifact.metrics) == (
        "metrics.json",
        "metrics",
        {"accuracy": accuracy},
    )
    assert f"accuracy  {accuracy:>12.6g}" in caplog.text


def test_inference_leaves_what_the_module_wrote(trained: Path, tmp_path: Path) -> None:
    done = run_toy(tmp_path / "inference", "inference", **settings(trained, "inference"))
    (artifact,) = done.artifacts
    assert artifact.kind == "predictions"
    found = json.loads(artifact.path.read_text())
    assert [entry["id"] for entry in found] == [f"p{number}" for number in range(60)]
    labels = [int(line.split()[3]) for line in (trained / "points.txt").read_text().splitlines()]
    right = sum(entry["class"] == label for entry, label in zip(found, labels, strict=True))
    evaluated = run_toy(tmp_path / "evaluate", "evaluate", **settings(trained, "evaluate"))
    assert right / 60 == pytest.approx(evaluated.events[-1]["kpi"]["accuracy"])


def test_an_action_of_the_network_itself_leaves_its_declared_outputs(trained: Path, tmp_path: Path) -> None:
    done = run_toy(
        tmp_path, "export", **settings(trained, "export"), export__onnx_file=str(tmp_path / "model.onnx")
    )
    assert [(found.path.name, found.kind) for found in done.artifacts] == [("model.onnx", "onnx")]
    assert done.events[-1]["message"] == "exporting"


def test_a_network_may_replace_a_shared_action_in_some_cases(trained: Path, tmp_path: Path) -> None:
    seen = []

    def evaluate(spec: Any, context: ActionContext) -> None:
        seen.append((context.network, context.action, context.job_id, context.rank, context.world))
        assert context.device.type == "cpu"
        context.run_shared()
        context.write_metrics({"extra": 1.0}, name="extra.json")

    own = replace(toy_impl.NETWORK, actions={"evaluate": evaluate})
    done = run_toy(tmp_path, "evaluate", implementation=own, **settings(trained, "evaluate"))
    assert seen == [("toy", "evaluate", "toy-job", 0, 1)]
    assert [found.path.name for found in done.artifacts] == ["metrics.json", "extra.json"]


def test_an_action_nobody_implements_is_told(tmp_path: Path) -> None:
    bare = replace(toy_impl.NETWORK, actions={})
    with pytest.raises(
        RuntimeMissingError, match=r"toy cannot export here: .* evaluate, inference, train"
    ) as found:
        run_toy(tmp_path, "export", implementation=bare)
    assert found.value.exit_code == 5


def test_a_checkpoint_is_asked_for_and_checked(trained: Path, tmp_path: Path) -> None:
    given = settings(trained, "evaluate")
    with pytest.raises(MissingValueError, match=r"evaluate\.checkpoint: no checkpoint is given"):
        run_toy(tmp_path, "evaluate", dataset__test_file=given["dataset__test_file"])
    with pytest.raises(NotFoundError, match=r"evaluate\.checkpoint: there is no file"):
        run_toy(tmp_path, "evaluate", **{**given, "evaluate__checkpoint": str(tmp_path / "none.pth")})
    with pytest.raises(InvalidValueError, match=r"evaluate\.checkpoint: .* is of another architecture"):
        run_toy(tmp_path, "evaluate", **given, model__hidden=5)


def test_a_network_may_load_weights_in_its_own_way(trained: Path, tmp_path: Path) -> None:
    seen = []

    def load(module: Any, path: Path, spec: Any) -> None:
        seen.append((type(module).__name__, path.name, spec.evaluate.num_gpus))

    own = replace(toy_impl.NETWORK, load_weights=load)
    run_toy(tmp_path, "evaluate", implementation=own, **settings(trained, "evaluate"))
    assert seen == [("SidesModule", "toy_model_latest.pth", 1)]


@pytest.mark.parametrize(("part_in_stage", "warned"), [(None, True), (1, False), (2, True)])
def test_a_checkpoint_beside_an_engine_is_warned_of_unless_it_is_read(
    part_in_stage: int | None, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine, seen = tmp_path / "model.engine", []
    engine.write_bytes(b"plan")
    own = replace(
        toy_impl.NETWORK,
        load_engine=lambda module, path, spec: seen.append(path),
        engine_is_part=None if part_in_stage is None else lambda spec: part_in_stage == spec.stage,
    )
    given = SimpleNamespace(checkpoint="model.pth", trt_engine=str(engine))
    known: dict[str, Any] = {"implementation": own, "spec": SimpleNamespace(stage=1, evaluate=given)}
    unused = ("network_facts", "info", "nested", "job_id", "folder", "host", "status", "interrupts", "record")
    job = Running(action="evaluate", **known, **dict.fromkeys(unused))
    with caplog.at_level("WARNING"):
        assert job.load_model(object()) == engine
    assert seen == [engine]
    assert ("evaluate.trt_engine is given: evaluate.checkpoint is not read" in caplog.text) is warned
