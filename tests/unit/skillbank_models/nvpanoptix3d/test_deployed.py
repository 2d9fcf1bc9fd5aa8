"""A tiny stage-2 network, its 2D part run from an ONNX file: results, other sizes, and what is refused.

Exporting takes some ten seconds of a slow core, so one file serves all tests here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scene_cases import random_batch, tiny_spec

from skillbank.errors import ConflictError, InvalidValueError, MissingValueError, ShapeError
from skillbank_models.deploy.model_io import ModelInput
from skillbank_models.nvpanoptix3d.camera import FRONT3D_CAMERA
from skillbank_models.nvpanoptix3d.data import categories_of, grid_of
from skillbank_models.nvpanoptix3d.deployed import DeployedImage, ImageFile, load_engine, open_image
from skillbank_models.nvpanoptix3d.export import export
from skillbank_models.nvpanoptix3d.frustum import frustum_mask
from skillbank_models.nvpanoptix3d.module import NVPanoptix3DModule
from skillbank_models.nvpanoptix3d.shapeless import OF_IMAGES, OF_VOLUMES
from skillbank_models.nvpanoptix3d.views import view_of
from skillbank_models.nvpanoptix3d.weights import load_weights
from skillbank_models.weights.files import FACTS
from skillbank_models.weights.writing import write_torch

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

CPU = torch.device("cpu")
EASY = {"model__object_mask_threshold": 0.05, "model__overlap_threshold": 0.05}


@dataclass
class Context:
    """What an action gets."""

    folder: Path
    rank: int = 0
    device: torch.device = CPU

    @property
    def status(self):
        return self

    def running(self, message, **fields):
        pass

    def register(self, path, kind, **more):
        pass


def shaken(module):
    """Make every parameter and statistic matter."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                buffer.normal_(std=0.2)
    return module.eval()


def spec_of(action="evaluate", stage=2, **more):
    return tiny_spec(action, dataset__enable_3d=stage == 2, **{**EASY, **more})


def write_checkpoint(path, seed, *, camera_is_trained=True):
    torch.manual_seed(seed)
    spec = spec_of("train")
    module = shaken(NVPanoptix3DModule(spec))
    facts = OF_IMAGES.of(spec, categories_of(spec), camera_is_trained=camera_is_trained)
    facts["settings"] |= OF_VOLUMES.of(spec, categories_of(spec))["settings"]
    write_torch(path, {"state_dict": module.state_dict(), FACTS: facts})
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "two.pth", 2)


@pytest.fixture(scope="module")
def file(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model_2d.onnx"
    given = {"export__checkpoint": str(checkpoint), "export__onnx_file_2d": str(path)}
    export(spec_of("export", **given, export__batch_size=1), Context(path.parent))
    return path


@pytest.fixture(scope="module")
def own(checkpoint):
    """The network itself."""
    module = NVPanoptix3DModule(spec_of())
    load_weights(module, checkpoint, spec_of())
    return module.eval()


@pytest.fixture(scope="module")
def deployed(file, checkpoint):
    """The 3D part behind the file."""
    spec = spec_of(evaluate__checkpoint=str(checkpoint), evaluate__trt_engine=str(file))
    module = NVPanoptix3DModule(spec)
    load_engine(module, file, spec)
    module._deployed = open_image(module.engine, spec=spec, device=CPU)
    return module.eval()


def batch_of(content=(120, 160), size=(128, 160), seed=0):
    """Two smooth pictures with the camera of 3D-Front."""
    spec, draw = spec_of(), torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, content[0] // 15, content[1] // 16, generator=draw) * 255
    images = F.interpolate(images, content, mode="bilinear", align_corners=False)
    images = F.pad(images, (0, size[1] - content[1], 0, size[0] - content[0]))
    camera = FRONT3D_CAMERA.scaled(content[1], content[0])
    view = view_of(camera, grid_of(spec), shifted=True, rule="measured")
    return random_batch(counts=(1, 1), classes=13, size=size, content=content)._replace(
        images=images,
        views=[view, view],
        frusta=torch.stack([frustum_mask(view, CPU)] * 2),
        original_sizes=[(240, 320), (90, 120)],
        file_names=["a.png", "b.png"],
        image_ids=["a.png", "b.png"],
    )


def results(module, batch):
    with torch.no_grad():
        batch, image = module._predict(batch)
        return image, module._scenes(image, batch)


def test_x(own, deployed):
    batch=batch_of()
    i1,s1=results(own,batch)
    i2,s2=results(deployed,batch)
    for a,b in zip(s1,s2):
        print(len(a.segments), len(a.volume_segments), (a.segment_map!=b.segment_map).sum(), abs(a.depth-b.depth).max(), a.depth.min(), a.depth.max(), (a.geometry<2.9).sum(), (a.panoptic_volume>0).sum(), (a.panoptic_volume!=b.panoptic_volume).sum(), abs(a.geometry-b.geometry).max(), (abs(a.geometry-b.geometry)>1e-2).sum())
    print((i1.pose-i2.pose).abs().max(), i1.pose)
    assert 0
