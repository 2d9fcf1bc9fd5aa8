"""A small bank of its own: the plain network, its machine facts, a playbook and a shared text."""

from dataclasses import replace
from pathlib import Path

import plain_network
import pytest

SKILL_INFO = """
name: tao-train-plain
type: model
network_arch: plain
description: Does nothing.
automl_enabled: true
data_format: panoptic
data_formats: [panoptic, plain]
actions:
  train:
    description: Trains.
    command: tao model plain train -e {config_path}
    accepts: [.pth]
    produces: [.pth]
  evaluate: {description: Measures., command: "tao model plain evaluate -e {config_path}"}
  fly: {description: Flies., command: "tao model plain fly -e {config_path}"}
data_sources:
  train:
    dataset.root: {source: [train_datasets], path: data.tar.gz, alternatives: [data]}
    dataset.train.images:
      source: [train_datasets]
      path_from_format: {plain: "", "*": images}
      multiple: true
      conditional: {metadata_key: dataset_format, equals: [panoptic]}
    model.embed_dims:
      value_from_metadata: {key: dataset_format, mapping: {panoptic: 64, "*": 32}, default: 16}
    model.device: {value: cpu}
    model.name:
      source: [train_datasets]
      path_from_format: {panoptic: fine.json, "*": map.json}
      alternatives: [map.json]
      optional: true
  evaluate:
    dataset.root: {source: [inference_dataset], optional: true}
spec_params:
  train: {results_dir: output_dir, train.checkpoint: parent_model}
  evaluate: {results_dir: output_dir}
spec_shorthand_keys: {learning_rate: train.optim.lr}
"""

PLAYBOOK = """---
name: tao-train-plain
---
# Plain

<!-- generated:actions -->
old
<!-- /generated -->

```
<!-- generated:unknown -->
```

<!-- generated:shared launch -->
<!-- /generated -->
"""


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the small bank."""
    skill = tmp_path / "bank/skills/tao-train-plain"
    (skill / "references").mkdir(parents=True)
    (skill / "references/skill_info.yaml").write_text(SKILL_INFO, encoding="utf-8")
    (skill / "SKILL.md").write_text(PLAYBOOK, encoding="utf-8")
    shared = tmp_path / "bank/references/shared"
    shared.mkdir(parents=True)
    (shared / "launch.md").write_text("Run `tao {network} train`.\n", encoding="utf-8")
    monkeypatch.setenv("SKILLBANK_NETWORKS", "plain_network")
    monkeypatch.setattr(plain_network, "NETWORK", replace(plain_network.NETWORK, skill_path=skill))
    return tmp_path / "bank"
