"""A machine with a tiny dataset in all three formats and a tiny network, used through the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

BIN = Path(sys.executable).parent

# The smallest network that still has every part.
TINY: dict[str, Any] = {
    "model": {
        "backbone": {
            "type": "swin",
            "swin": {
                "embed_dim": 16,
                "depths": [1, 1, 2, 1],
                "num_heads": [1, 2, 4, 8],
                "window_size": 4,
                "drop_path_rate": 0.1,
            },
        },
        "sem_seg_head": {
            "convs_dim": 32,
            "mask_dim": 32,
            "transformer_enc_layers": 1,
        },
        "mask_former": {
            "hidden_dim": 64,
            "nheads": 4,
            "dim_feedforward": 64,
            "dec_layers": 3,
            "num_object_queries": 12,
            "train_num_points": 128,
        },
    },
    "dataset": {
        "contiguous_id": True,
        "workers": 0,
        "pin_memory": False,
        "train": {"batch_size": 2},
        "augmentation": {
            "train_min_size": [64],
            "train_max_size": 128,
            "train_crop_size": [64, 64],
            "test_min_size": 64,
            "test_max_size": 128,
        },
    },
    "train": {"num_epochs": 2, "optim": {"lr": 0.001, "milestones": [10]}},
    "export": {"input_width": 64, "input_height": 64},
}


class Machine:
    """A folder with data and specs, and the variables of a shell.

    Attributes:
        classes: number of classes by data format.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(root),
            "SKILLBANK_HOME": str(root / "store"),
            "SKILLBANK_MOUNTS_FILE": str(root / "no-mounts.json"),
            "SKILLBANK_ACCELERATOR": "cpu",
            "SKILLBANK_CPU_SLOTS": "4",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.data = root / "data"
        self.ok(
            "skillbank", "data", "make", "mask2former", "--format", "all",
            "--images", "5", "--size", "64x80", "--seed", "3", "--to", str(self.data),
        )  # fmt: skip

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """Start a command line in the folder."""
        return subprocess.Popen(
            list(words), cwd=self.root, env={**self.env, **env}, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *words: str, **env: str) -> tuple[int, str, str]:
        """Run a command line to its end: exit code, output, messages."""
        process = self.start(*words, **env)
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err

    def ok(self, *words: str, **env: str) -> str:
        """The output of a command line that has to succeed."""
        code, out, err = self.run(*words, **env)
        assert code == 0, f"{' '.join(words)}\n{out}\n{err}"
        return out

    def spec(self, kind: str = "coco_panoptic", mode: str = "panoptic", **changes: Any) -> Path:
        """A complete spec file; changes are dotted keys with `__` for the dot."""
        nested: dict[str, Any] = yaml.safe_load(yaml.safe_dump(TINY))
        dataset = nested["dataset"]
        dataset["type"] = kind
        images = {"img_dir": str(self.data / "images")}
        split: dict[str, Any] = {
            "coco_panoptic": {
                **images,
                "panoptic_json": str(self.data / "annotations_panoptic.json"),
                "panoptic_dir": str(self.data / "images_panoptic"),
            },
            "coco": {**images, "instance_json": str(self.data / "annotations.json")},
            "ade": {"root_dir": str(self.data), "annot_file": str(self.data / "annotations.jsonl")},
        }[kind]
        dataset["train"].update(split)
        dataset["val"] = split
        dataset["test"] = images
        panoptic = "label_map_panoptic.json" if kind != "coco" else "label_map.json"
        dataset["label_map"] = str(self.data / panoptic)
        nested["model"]["mode"] = mode
        nested["model"]["sem_seg_head"]["num_classes"] = len(
            yaml.safe_load(Path(dataset["label_map"]).read_text())
        )
        for name, value in changes.items():
            *blocks, leaf = name.split("__")
            place = nested
            for block in blocks:
                place = place.setdefault(block, {})
            place[leaf] = value
        path = self.root / f"{kind}_{mode}.yaml"
        path.write_text(yaml.safe_dump(nested))
        return path


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """One for all tests; each test writes to folders of its own."""
    return Machine(tmp_path_factory.mktemp("mask2former"))
