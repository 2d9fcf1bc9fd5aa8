"""NVPanoptix3D at full size, stage 2 of the 3D-Front recipe, one image of 320 x 240 padded to 320 x 256.

Without a GPU only the parameters of each block are counted, which takes a second: nothing is allocated.
`--full` also runs the image once on the CPU: a minute of one core and 8 GB, with `--precision bf16-weights`
5 GB; times are those of the processor. With a GPU the image is always run, in each precision: medians of
rounds, and a table of the profiler for each in `--out`, against the 10 ms that 3.3 TFLOP take there.

Weights are made up, so what the network sees in the image means nothing. The 3D part therefore gets depth and
classes of a box room (`bench_lifting`), and the distances of that room say which voxels survive
(`bench_frustum_memory`): there are as many as with a trained network. The references are sizes and arithmetic
of the published network, counted on its blocks; GFLOP are two for each multiplication of matrix products,
convolutions and attention.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))

import torch
from bench_frustum_memory import annotated
from bench_lifting import resident, room
from scene_cases import tiny_spec
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from skillbank.specs import network
from skillbank_models.nvpanoptix3d.batch import SceneBatch, VolumeTarget
from skillbank_models.nvpanoptix3d.camera import FRONT3D_CAMERA, Grid
from skillbank_models.nvpanoptix3d.frustum import frustum_mask
from skillbank_models.nvpanoptix3d.frustum_decoder import FrustumDecoder
from skillbank_models.nvpanoptix3d.model import NVPanoptix3D, build_model
from skillbank_models.nvpanoptix3d.occupancy_head import OccupancyHead
from skillbank_models.nvpanoptix3d.outputs import MergedImage
from skillbank_models.nvpanoptix3d.scene_results import volume_scenes
from skillbank_models.nvpanoptix3d.views import view_of
from skillbank_models.nvpanoptix3d.volume_targets import values_at

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "python tests/bench/bench_nvpanoptix3d_full.py"
RECIPE = "nvpanoptix3d-front3d-3d"
SIDE, SIZE, PADDED = 256, (240, 320), (256, 320)
POOL = 4_194_301  # a prime, so that no two rows of a weight begin at the same number
WARM_UP, ROUNDS = 3, 10
FLOOR_S = 0.010
PRECISIONS = ("fp32", "bf16", "bf16-weights")
# block -> (its place in the network, millions of parameters and GFLOP of the published one)
BLOCKS: dict[str, tuple[str, float, float | None]] = {
    "aggregator": ("backbone.aggregator", 909.1, 1724),
    "camera head": ("backbone.camera_head", 216.2, 1.7),
    "depth head": ("backbone.depth_head", 32.65, 181),
    "adapter": ("sem_seg_head.adapter", 146.3, 209),
    "pixel decoder": ("sem_seg_head.pixel_decoder", 6.04, 59),
    "depth projector": ("sem_seg_head.depth_projector", 2.63, 23),
    "query decoder": ("sem_seg_head.predictor", 19.4, 20),
    "occupancy head": ("sem_seg_head.occupancy", 45.3, 611),
    "stage-2 projector": ("projector", 0.66, 2),
    "frustum decoder": ("completion", 10.22, None),
}
PARTS = {  # of the frustum decoder
    "frustum decoder, encoder": "completion.encoder",
    "frustum decoder, side 64": "completion.coarse",
    "frustum decoder, side 64, first embedding": "completion.coarse.embed.0",
    "frustum decoder, side 64, second embedding": "completion.coarse.embed.1",
    "frustum decoder, side 128": "completion.middle",
    "frustum decoder, side 256": "completion.fine",
}


def build(**changes: Any) -> NVPanoptix3D:
    """The network of the recipe without any numbers."""
    recipe = next(each for each in network("nvpanoptix3d").base_experiments if each.id == RECIPE)
    dotted = {
        key.replace(".", "__"): value
        for key, value in recipe.specs.items()
        if key.startswith(("model.", "dataset."))
    }
    spec = tiny_spec("inference", base={}, inference__checkpoint="model.pth", **dotted, **changes)
    things = tuple(1 <= label <= spec.dataset.num_thing_classes for label in range(13))
    with torch.device("meta"):
        return build_model(spec, is_thing=things).eval().requires_grad_(False)


def materialise(module: nn.Module, device: str) -> None:
    """Give a network numbers that keep signals at their size: slices of one pool, scaled to each weight."""
    module.to_empty(device=device)
    draw = torch.Generator().manual_seed(0)
    pool = (torch.rand(POOL, generator=draw) * 2 - 1).to(device)
    for name, tensor in module.state_dict().items():
        if tensor.dim() > 1:
            flat = tensor.view(-1)
            for start in range(0, len(flat), POOL):
                flat[start : start + POOL].copy_(pool[: len(flat) - start])
            flat.mul_((3 / max(1, tensor[0].numel())) ** 0.5)
        else:
            tensor.fill_(float(name.endswith(("weight", "gamma", "running_var"))))


class Clock:
    """Seconds of named blocks: of the processor, whatever else runs on it, or of a GPU, without waiting."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.rounds: list[dict[str, list[tuple[Any, Any]]]] = []

    def begin(self) -> None:
        """Start a round."""
        self.rounds.append(defaultdict(list))

    def watch(self, name: str, module: nn.Module) -> None:
        """Time every call of a module."""
        starts: list[Any] = []
        module.register_forward_pre_hook(lambda *_: starts.append(self._mark()))
        module.register_forward_hook(lambda *_: self._add(name, starts.pop()))

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        """Time what is inside."""
        start = self._mark()
        yield
        self._add(name, start)

    def medians(self) -> dict[str, float]:
        """Of the rounds, in seconds; calls of one round are added up."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return {
            name: statistics.median(
                sum(self._seconds(*pair) for pair in found[name]) for found in self.rounds if name in found
            )
            for name in self.rounds[-1]
        }

    def _add(self, name: str, start: Any) -> None:
        self.rounds[-1][name].append((start, self._mark()))

    def _mark(self) -> Any:
        if self.device != "cuda":
            return time.process_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) / 1000 if self.device == "cuda" else end - start


def steer(decoder: FrustumDecoder, target: VolumeTarget) -> None:
    """Let distances decide which voxels survive; looked up once, so that it costs next to nothing later."""
    known: dict[nn.Module, Tensor] = {}
    coarse = torch.ones((SIDE // 4,) * 3, device=target.distance.device).nonzero()

    def shift(module: nn.Module, cells: Tensor, side: int, below: float) -> Tensor:
        if module not in known or len(known[module]) != len(cells):
            known[module] = (values_at(target.distance, cells, side) < below) * 100.0 - 50.0
        return known[module]

    def of_grid(module: nn.Module, _given: Any, logits: Tensor) -> Tensor:
        shape = logits.shape[-3:]
        return logits + shift(module, coarse, shape[0], 8.0).view(shape)

    def of_voxels(module: nn.Module, _given: Any, found: Any) -> Any:
        below = 6.0 if found.side < SIDE else 3.0
        added = shift(module, found.coords[:, 1:], found.side, below)
        return found.with_features(found.features + added[:, None])

    decoder.coarse.occupancy.register_forward_hook(of_grid)
    decoder.middle.occupancy.register_forward_hook(of_voxels)
    decoder.fine.occupancy.register_forward_hook(of_voxels)


class Scene:
    """One image and its room, and the steps that the module takes with them."""

    def __init__(self, model: NVPanoptix3D, device: str) -> None:
        self.model = model
        self.clock = Clock(device)
        self.counts: dict[str, int] = {}
        depth, scores, _ = room()
        view = view_of(FRONT3D_CAMERA, Grid(SIDE, 0.03, 0.4, 6.0), shifted=True, rule="measured")
        steer(model.completion, VolumeTarget(*(part.to(device) for part in annotated(depth, view))))
        images = torch.rand(1, 3, *PADDED, generator=torch.Generator().manual_seed(1)) * 255
        images[..., SIZE[0] :, :] = 128
        nothing = torch.zeros(depth.shape[1:], dtype=torch.int32, device=device)
        self.room = [MergedImage(nothing, [], scores[0].to(device), depth[0].to(device))]
        self.batch = SceneBatch(
            images=images.to(device), sizes=[SIZE], original_sizes=[SIZE], views=[view],
            frusta=frustum_mask(view, device).unsqueeze(0), room_masks=None, targets=[], depths=None,
            planes=None, plane_valid=None, volumes=[], weights=torch.ones(1, device=device),
            file_names=["room.png"], image_ids=["room"], truths=[],
        )  # fmt: skip
        for name, place in {**{name: block[0] for name, block in BLOCKS.items()}, **PARTS}.items():
            self.clock.watch(name, model.get_submodule(place))

    def run(self) -> None:
        """From the image to its volumes."""
        clock, model, batch = self.clock, self.model, self.batch
        clock.begin()
        with clock.around("all"):
            with clock.around("2D part"):
                output = model(batch.images, all_layers=False, sizes=batch.sizes)
            with clock.around("merge on the plane"):
                model.merge(output, batch)
            with clock.around("3D part"):
                with clock.around("projector, lifting and projection"):
                    inputs = model.lift(output, self.room, batch)
                volume = model.completion(inputs, output.queries, batch.frusta)
            with clock.around("volumes on the CPU"):
                volume_scenes(model, output, self.room, volume, batch, truncation=3.0)
        self.depth = output.depth
        self.counts = {
            "projected": inputs.distance.sites.num,
            "lifted": inputs.lifted.sites.num,
            "side_128": volume.half.occupancy.sites.num,
            "side_256": volume.full.occupancy.sites.num,
            "kept": volume.geometry.sites.num,
        }


def arithmetic(run: Callable[[], None]) -> dict[str, float]:
    """GFLOP of each block and of all."""

    def of_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    # which PyTorch counts on a GPU only
    missing = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: of_attention}
    with FlopCounterMode(display=False, custom_mapping=missing) as counter:
        run()
    found = counter.get_flop_counts()
    places = {**{name: block[0] for name, block in BLOCKS.items()}, **PARTS}
    result = {name: sum(found[f"NVPanoptix3D.{place}"].values()) / 1e9 for name, place in places.items()}
    return {**result, "all": counter.get_total_flops() / 1e9}


def sizes(model: NVPanoptix3D) -> list[dict[str, Any]]:
    """A row for the parameters of each block, in millions."""

    def row(name: str, module: nn.Module, published: float) -> dict[str, Any]:
        count = sum(parameter.numel() for parameter in module.parameters()) / 1e6
        return {
            "name": f"NVPanoptix3D, parameters: {name}", "command": COMMAND, "unit": "M", "median_s": count,
            "reference_s": published, "ratio": count / published,
        }  # fmt: skip

    published = build(model__compat={"occupancy_head": "published"})
    rows = [row(name, model.get_submodule(place), count) for name, (place, count, _) in BLOCKS.items()]
    head = published.sem_seg_head.occupancy
    return [*rows, row("occupancy head as published", head, 45.3), row("all", model, 1388.5)]


def autocast(device: str, precision: str) -> torch.autocast:
    """Half precision where it is asked for."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision != "fp32")


def measured(device: str, precisions: list[str], out: Path) -> list[dict[str, Any]]:
    """Rows for time and memory of each block."""
    on_gpu = device == "cuda"
    torch.set_float32_matmul_precision("high")
    start = time.perf_counter()
    model = build()
    published = build(model__compat={"occupancy_head": "published"}).sem_seg_head.occupancy
    if precisions == ["bf16-weights"]:  # so that they never are in 32 bits
        halve(model.backbone, model.sem_seg_head, published)
    materialise(model, device)
    materialise(published, device)
    model.backbone.depth_head.scratch.output_conv2[2].weight.mul_(0.01)  # its exponential is the depth
    scene = Scene(model, device)
    given: deque[Any] = deque(maxlen=1)
    model.sem_seg_head.occupancy.register_forward_pre_hook(lambda _, args: given.append(args))
    print(f"made in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    gflop: dict[str, float] = {}
    for precision in precisions:
        if precision == "bf16-weights":
            halve(model.backbone, model.sem_seg_head, published)
        scene.clock.rounds.clear()
        reset_peak(device)
        with torch.inference_mode(), autocast(device, precision):
            if gflop:
                scene.run()
            else:
                gflop = arithmetic(scene.run)
            if on_gpu:
                for _ in range(WARM_UP + ROUNDS):
                    scene.run()
                del scene.clock.rounds[:-ROUNDS]
            assert scene.depth.isfinite().all()
            peak = peak_bytes(device)
            medians = scene.clock.medians()
            medians["occupancy head as published"] = alone(published, given[0], device)
            if on_gpu:
                profile(scene.run, precision, out)
        rows += report(medians, gflop, scene.counts, precision, device)
        rows.append(
            {
                "name": f"NVPanoptix3D, {device}, {precision}: peak memory, weights included",
                "command": COMMAND, "unit": "GB", "median_s": peak / 1e9,
            }
        )  # fmt: skip
    return rows


def halve(*modules: nn.Module) -> None:
    """Keep weights in bfloat16."""
    for module in modules:
        module.to(torch.bfloat16)


def alone(head: OccupancyHead, args: Any, device: str) -> float:
    """Median seconds of one block on the inputs of another."""
    clock = Clock(device)
    clock.watch("it", head)
    for _ in range(WARM_UP + ROUNDS if device == "cuda" else 1):
        clock.begin()
        head(*args)
    return clock.medians()["it"]


def report(
    medians: dict[str, float], gflop: dict[str, float], counts: dict[str, int], precision: str, device: str
) -> list[dict[str, Any]]:
    """A row for the time of each block."""
    reference = medians["occupancy head as published"]
    rows = []
    for name, seconds in medians.items():
        row: dict[str, Any] = {
            "name": f"NVPanoptix3D, {device}, {precision}: {name}", "command": COMMAND, "median_s": seconds,
        }  # fmt: skip
        if name in gflop:
            row |= {"gflop": round(gflop[name], 1), "gflop_per_s": round(gflop[name] / seconds)}
        if name in BLOCKS:
            row["published_gflop"] = BLOCKS[name][2]
        if name == "occupancy head":
            row |= {"reference_s": reference, "ratio": seconds / reference}
        if name == "all":
            row["voxels"] = counts
        if name == "all" and device == "cuda":
            row |= {"reference_s": FLOOR_S, "ratio": seconds / FLOOR_S}
        rows.append(row)
    return rows


def reset_peak(device: str) -> None:
    """Forget how much memory was in use."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM


def peak_bytes(device: str) -> int:
    """The most memory since, weights included."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM")


def profile(run: Callable[[], None], precision: str, out: Path) -> None:
    """Write where a round spends its time."""
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as found:
        run()
        torch.cuda.synchronize()
    table = found.key_averages().table(sort_by="self_device_time_total", row_limit=60)
    out.mkdir(parents=True, exist_ok=True)
    head = f"One image in {precision}; its arithmetic alone takes 7 to {FLOOR_S * 1e3:.0f} ms in TF32.\n\n"
    (out / f"nvpanoptix3d_{precision}.txt").write_text(head + table)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="run the image also without a GPU")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of a run without a GPU")
    parser.add_argument("--out", type=Path, default=ROOT / "bench", help="folder for tables of the profiler")
    chosen = parser.parse_args()
    rows = sizes(build())
    if torch.cuda.is_available():
        rows += measured("cuda", list(PRECISIONS), chosen.out)
    elif chosen.full:
        rows += measured("cpu", [chosen.precision], chosen.out)
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
