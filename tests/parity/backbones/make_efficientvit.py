"""Write `efficientvit.npz`: maps of EfficientViT as timm and the authors' code compute them.

    python make_efficientvit.py --authors CHECKOUT_OF_EFFICIENTVIT

Runs in an environment of its own with torch and timm; see `efficientvit.md`.
"""

from __future__ import annotations

import argparse
import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "fixtures"))

from formula_weights import formula_weights  # noqa: E402

SIZE = (1, 3, 72, 100)  # not a multiple of 32, so that every halving rounds up once
SAMPLES = 150
L0 = {"widths": (32, 64, 128, 256, 512), "depths": (1, 1, 1, 4, 4), "head_dim": 32}


def image() -> Tensor:
    return torch.sin(torch.arange(3 * 72 * 100, dtype=torch.float64) * 0.37).reshape(SIZE).float() * 2.0


def samples(feature: Tensor) -> np.ndarray:
    flat = feature.flatten().double()
    picked = flat[:: max(len(flat) // SAMPLES, 1)]
    return torch.cat([flat.mean()[None], flat.std()[None], picked]).float().numpy()


def fill(net: nn.Module) -> None:
    net.load_state_dict(formula_weights({name: t.shape for name, t in net.state_dict().items()}))
    net.eval()


@torch.no_grad()
def by_timm(out: dict[str, np.ndarray]) -> None:
    # torchvision has no build for a CPU-only torch; timm only needs it to be importable
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor a, Tensor b, float c) -> Tensor")
    library.define("qnms(Tensor a, Tensor b, float c) -> Tensor")
    import timm
    from timm.models.efficientvit_mit import EfficientVitLarge

    for name in ("b0", "b1", "b2", "b3", "l0", "l1", "l2", "l3"):
        if name == "l0":
            net = EfficientVitLarge(**L0, head_widths=(8, 8), num_classes=1)
        else:
            net = timm.create_model(f"efficientvit_{name}", num_classes=0)
        fill(net)
        x = net.stem(image())
        for index, stage in enumerate(net.stages):
            x = stage(x)
            out[f"timm/{name}/res{index + 2}"] = samples(x)
        print(name, [f"{out[f'timm/{name}/res{i}'][1]:.3g}" for i in range(2, 6)])
    print("timm", timm.__version__, "torch", torch.__version__)


@torch.no_grad()
def by_authors(checkout: Path, out: dict[str, np.ndarray]) -> None:
    backbone = authors_module(checkout)
    for name in ("b0", "b1", "l0", "l1"):
        net = getattr(backbone, f"efficientvit_backbone_{name}")()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-7 if name.startswith("l") else 1e-5
        fill(net)
        state = net.state_dict()
        names = [f"{key} {','.join(str(n) for n in t.shape)}" for key, t in state.items()]
        out[f"authors/{name}/names"] = np.array(names)
        maps = net(image())
        for index in range(1, 5):
            out[f"authors/{name}/res{index + 1}"] = samples(maps[f"stage{index}"])


def authors_module(checkout: Path) -> types.ModuleType:
    """The file of the backbones without the packages around it, which ask for Triton and training code."""
    for part in ("", ".models", ".models.efficientvit", ".apps", ".apps.trainer"):
        name = f"efficientvit{part}"
        package = types.ModuleType(name)
        package.__path__ = [str(checkout / name.replace(".", "/"))]
        sys.modules[name] = package
    for name, content in {
        "efficientvit.apps.trainer.run_config": "Scheduler",
        "efficientvit.models.nn.triton_rms_norm": "TritonRMSNorm2dFunc",
    }.items():
        sys.modules[name] = types.ModuleType(name)
        setattr(sys.modules[name], content, object)
    import importlib

    return importlib.import_module("efficientvit.models.efficientvit.backbone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--authors", type=Path, required=True)
    found: dict[str, np.ndarray] = {}
    by_timm(found)
    by_authors(parser.parse_args().authors, found)
    np.savez_compressed(HERE / "efficientvit.npz", **found)


if __name__ == "__main__":
    main()
