"""The 3D part as a graph: equal to the network in torch, and in ONNX Runtime."""

from pathlib import Path
from typing import Any

import pytest
import torch
from frustum_cases import room, small_decoder

from skillbank_models.nvpanoptix3d.export_volume import example_room, export_volume
from skillbank_models.nvpanoptix3d.exported_volume import OUTPUTS, ExportedVolume
from skillbank_models.nvpanoptix3d.frustum_decoder import FrustumDecoder
from skillbank_models.nvpanoptix3d.outputs import FrustumInputs
from skillbank_models.sparse.tensor import Sites, SparseTensor

EXACT = {"rtol": 1e-8, "atol": 1e-9}  # both sides in float64; what differs is the order of sums


def lists_of(inputs: FrustumInputs, queries: torch.Tensor, frusta: torch.Tensor) -> dict[str, torch.Tensor]:
    """Inputs of the network for one image as the graph takes them."""
    found = {
        "projected_coords": inputs.distance.coords[:, 1:].long(),
        "distance": inputs.distance.features,
        "appearance": inputs.appearance.features,
        "classes": inputs.classes.features,
        "lifted_coords": inputs.lifted.coords[:, 1:].long(),
        "lifted": inputs.lifted.features,
        "queries": queries[0],
        "frustum": frusta[0],
    }
    for stride, scale in zip((2, 4, 8), inputs.scales, strict=False):
        found |= {f"scale_{stride}_coords": scale.coords[:, 1:].long(), f"scale_{stride}": scale.features}
    return found


def in_64_bits(inputs: FrustumInputs) -> FrustumInputs:
    def moved(x: SparseTensor) -> SparseTensor:
        return x.with_features(x.features.double())

    return FrustumInputs(*(moved(x) for x in inputs[:4]), [moved(x) for x in inputs.scales])


@pytest.mark.parametrize(
    "changes",
    [{}, {"multi_scale": True}, {"multi_scale": True, "max_voxels": 3000}, {"norm": "voxel"}],
    ids=["plain", "multi-scale", "capped", "published norm"],
)
@torch.no_grad()
def test_the_graph_is_the_network(changes: dict[str, Any]) -> None:
    inputs, queries, frusta = room(multi_scale=bool(changes.get("multi_scale")))
    decoder = small_decoder(seed=1, **changes).double().eval()
    inputs, queries = in_64_bits(inputs), queries.double()
    output = decoder(inputs, queries, frusta, all_levels=False)
    module = ExportedVolume(decoder, max_voxels=decoder.max_voxels)
    coords, distance, embeds, asked = module(**lists_of(inputs, queries, frusta))
    assert torch.equal(coords, output.geometry.coords[:, 1:].long())
    assert 500 < len(coords) < output.full.occupancy.sites.num
    torch.testing.assert_close(distance, output.geometry.features[:, 0], **EXACT)
    torch.testing.assert_close(embeds, output.full.embeds.features, **EXACT)
    torch.testing.assert_close(asked, output.full.queries[0], **EXACT)


def network_on(decoder: FrustumDecoder, given: dict[str, torch.Tensor]) -> Any:
    """The network itself on inputs of the graph."""

    def voxels(coords: str, features: str, side: int) -> SparseTensor:
        image = torch.zeros(len(given[coords]), 1, dtype=torch.long)
        return SparseTensor(given[features], Sites.of(torch.cat([image, given[coords]], 1), side, 1))

    near = [voxels("projected_coords", name, decoder.side) for name in ("distance", "appearance", "classes")]
    scales = [voxels(f"scale_{s}_coords", f"scale_{s}", decoder.side // s) for s in (2, 4, 8)]
    inputs = FrustumInputs(*near, voxels("lifted_coords", "lifted", decoder.side), scales)
    return decoder(inputs, given["queries"][None], given["frustum"][None], all_levels=False)


@pytest.mark.slow
def test_onnx_runtime_answers_like_the_network(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    decoder = small_decoder(seed=1, multi_scale=True).eval()
    path = tmp_path / "volume.onnx"
    report = export_volume(
        decoder, path, max_voxels=700_000, num_queries=8, opset=17, metadata={"side": "64"}, verbose=False
    )
    assert report["opset"] == 17
    assert report["custom_operators"] == []
    assert report["comparison"]["equal"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == list(OUTPUTS)
    given = example_room(decoder, seed=0, num_queries=8)
    coords, *numbers = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
    with torch.no_grad():
        output = network_on(decoder, given)
    assert torch.equal(torch.from_numpy(coords), output.geometry.coords[:, 1:].long())
    expected = (output.geometry.features[:, 0], output.full.embeds.features, output.full.queries[0])
    for found, truth in zip(numbers, expected, strict=True):
        # no voxel of this room is so near to the limit that rounding decides
        torch.testing.assert_close(torch.from_numpy(found), truth, rtol=0, atol=1e-4)
