"""Deformable attention: closed forms, gradients by differences, all forms alike, the choice of a form."""

import importlib.util
import logging

import pytest
import torch
from deformable_cases import encoder_case, forward_backward, random_case

from skillbank.errors import ShapeError
from skillbank_models.ops import _deformable_rows
from skillbank_models.ops import deformable_attention as operator
from skillbank_models.ops._deformable_plain import grid_sample_attention
from skillbank_models.ops._deformable_rows import row_attention

FORMS = {"plain": grid_sample_attention, "rows": row_attention}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

# Sums of 48 products of size 1 in another order; places are known to 1e-6 of a map of 7 pixels, and their
# gradient is the difference of two such sums times the size of the map.
CLOSE = {"rtol": 1e-4, "atol": 2e-4}


def attend(value, shapes, locations, weights, *, deterministic=False):
    return operator.deformable_attention(value, shapes, locations, weights, deterministic=deterministic)


def one_sample(maps, x, y, form=attend):
    """Value of a single map (h, w) at a place."""
    height, width = maps.shape
    place = torch.tensor([x, y], dtype=maps.dtype).view(1, 1, 1, 1, 1, 2)
    weight = torch.ones(1, 1, 1, 1, 1, dtype=maps.dtype)
    return form(maps.reshape(1, -1, 1, 1), [(height, width)], place, weight).item()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("x", "y", "wanted"),
    [
        (0.5, 0.5, 2.5),
        (0.25, 0.25, 1.0),
        (0.75, 0.25, 2.0),
        (0.1, 0.5, 1.4),
        (1.1, 0.5, 0.9),
        (-0.05, 0.5, 0.8),
    ],
)
def test_small_map_by_hand(form, x, y, wanted):
    maps = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    assert one_sample(maps, x, y, FORMS[form]) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_a_ramp_is_sampled_exactly(form):
    shapes, heads = [(6, 9), (4, 5)], 2
    case = random_case(shapes, heads=heads, width=3, beyond=0.0).to("cpu", torch.float64)
    places = case.locations * 0.7 + 0.15  # at least half a pixel away from every edge
    ramps = []
    for level, (height, width) in enumerate(shapes):
        ys, xs = torch.meshgrid(
            torch.arange(height).double() + 0.5, torch.arange(width).double() + 0.5, indexing="ij"
        )
        ramps.append((3 * xs / width - 2 * ys / height + level).flatten())
    value = torch.cat(ramps)[None, :, None, None].expand_as(case.value)
    levels = torch.arange(2, dtype=torch.float64)[:, None]
    exact = (case.weights * (3 * places[..., 0] - 2 * places[..., 1] + levels)).sum((-1, -2))  # (B, Q, M)
    got = FORMS[form](value, shapes, places, case.weights).unflatten(-1, (heads, -1))
    torch.testing.assert_close(got, exact[..., None].expand_as(got), rtol=0, atol=1e-12)


@pytest.mark.parametrize("place", [-0.8, 1.8, -1e6, 1e20])
def test_places_beyond_the_map_give_nothing(place):
    case = random_case()
    case.locations[..., 0] = place
    out, *grads = forward_backward(attend, case)
    assert len(grads) == 3
    assert not any(x.any() for x in (out, *grads))


def test_a_nan_shows_in_its_query_alone():
    case = random_case()
    case.locations[0, 4, 1, 0, 0, 0] = torch.nan
    out = attend(case.value, case.shapes, case.locations, case.weights).unflatten(-1, (3, -1))  # (B, Q, M, d)
    assert out[0, 4, 1].isnan().any()
    out[0, 4, 1] = 0
    assert out.isfinite().all()


CASES = {
    "odd sizes": {},
    "one pixel, one point": {"shapes": ((1, 1),), "points": 1, "heads": 1, "width": 1},
    "flat maps": {"shapes": ((1, 9), (8, 1)), "width": 16, "queries": 1},
    "far outside": {"beyond": 3.0},
    "many queries": {"queries": 300, "heads": 2, "width": 8},
}


@pytest.mark.parametrize("name", CASES)
def test_rows_equal_the_plain_form(name):
    case = random_case(**CASES[name])
    pairs = zip(forward_backward(attend, case), forward_backward(grid_sample_attention, case), strict=True)
    for ours, plain in pairs:
        torch.testing.assert_close(ours, plain, **CLOSE)


def test_blocks_do_not_change_the_sums(monkeypatch):
    case = random_case(queries=40)
    whole = forward_backward(row_attention, case)
    monkeypatch.setattr(_deformable_rows, "BLOCK_SAMPLES", 7 * 36)  # 7 queries of 3 heads, 3 levels, 4 points
    parts = forward_backward(row_attention, case)
    assert torch.equal(whole[0], parts[0])
    for ours, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(ours, other, **CLOSE)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_by_differences(form):
    case = random_case(((3, 2), (2, 4)), queries=3, heads=2, width=3, points=2, beyond=0.2, seed=3)
    case = case.to("cpu", torch.float64)
    inputs = [x.requires_grad_() for x in (case.value, case.locations, case.weights)]
    torch.autograd.gradcheck(lambda v, loc, w: FORMS[form](v, case.shapes, loc, w), inputs)


@pytest.mark.parametrize("frozen", [0, 1, 2, (1, 2)], ids=str)
def test_only_asked_gradients_are_made(frozen):
    case = random_case()
    frozen = (frozen,) if isinstance(frozen, int) else frozen
    inputs = [
        x.clone().requires_grad_(i not in frozen)
        for i, x in enumerate((case.value, case.locations, case.weights))
    ]
    attend(inputs[0], case.shapes, *inputs[1:]).backward(case.grad)
    assert [x.grad is None for x in inputs] == [i in frozen for i in range(3)]
    wanted = forward_backward(grid_sample_attention, case)[1:]
    for i in set(range(3)) - set(frozen):
        torch.testing.assert_close(inputs[i].grad, wanted[i], **CLOSE)


@pytest.mark.parametrize("deterministic", [False, True])
def test_same_bits_again(deterministic):
    case = encoder_case(128, heads=2, width=8)
    first, second = (
        forward_backward(lambda *x: attend(*x, deterministic=deterministic), case) for _ in range(2)
    )
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    case = random_case().to("cpu", dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, *grads = forward_backward(attend, case)
    exact = row_attention(case.value.float(), case.shapes, case.locations, case.weights)
    assert torch.equal(out, exact.to(dtype))
    assert [x.dtype for x in grads] == [dtype, torch.float32, torch.float32]


def test_nothing_to_sample():
    out, grad_value, grad_places, _ = forward_backward(attend, random_case(queries=0))
    assert out.shape == (2, 0, 15)
    assert grad_places.shape == (2, 0, 3, 3, 4, 2)
    assert not grad_value.any()
    assert forward_backward(attend, random_case(batch=0))[0].shape == (0, 13, 15)


def test_inputs_may_lie_in_memory_in_any_order():
    case = random_case()
    shuffled = case._replace(
        value=case.value.transpose(1, 2).contiguous().transpose(1, 2),
        locations=case.locations.permute(0, 2, 3, 4, 5, 1).contiguous().permute(0, 5, 1, 2, 3, 4),
        weights=case.weights[:1].expand(2, -1, -1, -1, -1),
        grad=case.grad.transpose(0, 1).contiguous().transpose(0, 1),
    )
    assert not shuffled.value.is_contiguous()
    pairs = zip(
        forward_backward(attend, shuffled), forward_backward(grid_sample_attention, shuffled), strict=True
    )
    for ours, plain in pairs:
        torch.testing.assert_close(ours, plain, **CLOSE)


def test_wrong_shapes_are_named():
    case = random_case()
    with pytest.raises(ShapeError) as caught:
        attend(case.value, [(3, 5), (7, 2)], case.locations, case.weights[..., :2])
    text = str(caught.value)
    assert "levels [(3, 5), (7, 2)] have 29 pixels, value has 30" in text
    assert "locations (2, 13, 3, 3, 4, 2) must be (B=2, Q, M=3, L=2, P, 2)" in text
    assert "weights (2, 13, 3, 3, 2) must be (2, 13, 3, 3, 4)" in text
    with pytest.raises(ShapeError, match=r"value \(2, 30, 15\)"):
        attend(case.value.flatten(2), case.shapes, case.locations, case.weights)


class Attend(torch.nn.Module):
    def forward(self, value, locations, weights):
        return attend(value, ((3, 5), (7, 2), (1, 1)), locations, weights)


def test_graphs_get_the_plain_form():
    case = random_case()
    inputs = (case.value, case.locations, case.weights)
    program = torch.export.export(Attend(), inputs)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.grid_sampler.default" in called
    assert not any("embedding_bag" in name for name in called)
    assert not any(
        getattr(node.meta.get("val"), "dtype", None) == torch.float64 for node in program.graph.nodes
    )
    torch.testing.assert_close(program.module()(*inputs), Attend()(*inputs), **CLOSE)


def test_missing_triton_is_told_once(monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    operator._has_triton.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert not operator._has_triton()
            assert not operator._has_triton()
        assert [record.message for record in caplog.records] == [
            "deformable attention: Triton is not installed; using the slower grid_sample form on CUDA"
        ]
    finally:
        operator._has_triton.cache_clear()


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_cuda_equals_the_plain_form_on_cpu(name, deterministic):
    case = random_case(**CASES[name])
    ours = forward_backward(
        lambda *x: attend(*x, deterministic=deterministic), case.to("cuda", torch.float32)
    )
    for got, plain in zip(ours, forward_backward(grid_sample_attention, case), strict=True):
        torch.testing.assert_close(got.cpu(), plain, **CLOSE)


@needs_cuda
@pytest.mark.gpu
def test_cuda_deterministic_gives_the_same_bits_again():
    case = encoder_case(256).to("cuda", torch.float32)
    first, second = (forward_backward(lambda *x: attend(*x, deterministic=True), case) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@needs_cuda
@pytest.mark.gpu
def test_cuda_places_far_outside_and_nan():
    case = random_case().to("cuda", torch.float32)
    case.locations[..., 0] = 1e20
    case.locations[0, 4, 1, 0, 0] = torch.nan
    out = attend(case.value, case.shapes, case.locations, case.weights).unflatten(-1, (3, -1))
    assert out[0, 4, 1].isnan().any()
    out[0, 4, 1] = 0
    assert not out.any()
