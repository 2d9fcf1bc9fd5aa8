"""The attention layer: its start, names, references, precision, recomputation and export."""

import math

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from skillbank.errors import InvalidValueError
from skillbank_models.layers.deformable_attention import MultiScaleDeformableAttention

SIZES = [(2, 3), (4, 6)]
PIXELS = 30


def layer(*, dim=12, nheads=3, seed=0, spread=0.3, deterministic=False):
    torch.manual_seed(seed)
    made = MultiScaleDeformableAttention(
        dim=dim, num_levels=2, nheads=nheads, num_points=4, deterministic=deterministic
    )
    if spread:  # at the start neither places nor weights depend on the query
        torch.nn.init.normal_(made.sampling_offsets.weight, std=spread)
        torch.nn.init.normal_(made.attention_weights.weight, std=spread)
    return made


def inputs(batch=2, queries=7, dim=12):
    rng = torch.Generator().manual_seed(1)
    return (
        torch.randn(batch, queries, dim, generator=rng),
        torch.rand(batch, queries, 2, generator=rng),
        torch.randn(batch, PIXELS, dim, generator=rng),
    )


def test_names_are_those_of_published_weights():
    assert {name: tuple(x.shape) for name, x in layer().state_dict().items()} == {
        "sampling_offsets.weight": (48, 12),
        "sampling_offsets.bias": (48,),
        "attention_weights.weight": (24, 12),
        "attention_weights.bias": (24,),
        "value_proj.weight": (12, 12),
        "value_proj.bias": (12,),
        "output_proj.weight": (12, 12),
        "output_proj.bias": (12,),
    }


def test_each_head_starts_in_a_direction_of_its_own():
    made = layer(dim=16, nheads=8, spread=0)
    offsets = made.sampling_offsets.bias.detach().view(8, 2, 4, 2)
    assert torch.equal(offsets[:, 0], offsets[:, 1])
    ring = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, direction in enumerate(ring):
        for point in range(4):
            wanted = torch.tensor(direction, dtype=torch.float32) * (point + 1)
            torch.testing.assert_close(offsets[head, 0, point], wanted, rtol=0, atol=1e-6)
    assert not made.sampling_offsets.weight.any()
    assert not made.attention_weights.weight.any()
    assert not made.attention_weights.bias.any()
    limit = math.sqrt(6 / 32)  # xavier-uniform of 16 x 16
    for projection in (made.value_proj, made.output_proj):
        assert 0.8 * limit < projection.weight.abs().max() <= limit
        assert not projection.bias.any()


@pytest.mark.parametrize(("dim", "nheads"), [(256, 3), (12, 0)])
def test_heads_must_divide_the_channels(dim, nheads):
    with pytest.raises(InvalidValueError, match=f"{nheads} heads do not divide {dim} channels") as caught:
        MultiScaleDeformableAttention(dim=dim, num_levels=1, nheads=nheads, num_points=1, deterministic=False)
    assert "convs_dim % nheads == 0" in caught.value.hint


def test_references_of_pixels_queries_and_levels_agree():
    made = layer()
    query, reference, value = inputs()
    out = made(query, reference, value, SIZES)
    assert out.shape == query.shape
    of_levels = reference[:, :, None].expand(-1, -1, 2, -1)
    assert torch.equal(made(query, of_levels, value, SIZES), out)
    shared = reference[0]
    assert torch.equal(made(query, shared, value, SIZES), made(query, shared.expand(2, -1, -1), value, SIZES))
    moved = of_levels.clone()
    moved[:, :, 1] += 0.2
    assert not torch.allclose(made(query, moved, value, SIZES), out, atol=1e-3)


def test_offsets_are_pixels_of_each_level():
    made = layer(dim=2, nheads=1, spread=0)
    torch.nn.init.eye_(made.value_proj.weight)
    torch.nn.init.eye_(made.output_proj.weight)
    made.sampling_offsets.bias.data = torch.tensor([1.0, -1.0]).repeat(8)  # one pixel right, one up
    value = torch.zeros(1, PIXELS, 2)
    value[0, 0 * 3 + 2, 0] = 1.0  # level 0: row 0, column 2
    value[0, 6 + 0 * 6 + 2, 1] = 1.0  # level 1: row 0, column 2
    reference = torch.tensor(
        [[1.5 / 3, 1.5 / 2], [1.5 / 6, 1.5 / 4]]
    )  # (row 1, column 1) of level 0, of level 1
    out = made(torch.zeros(1, 2, 2), reference, value, SIZES)
    torch.testing.assert_close(out[0, 0, 0], torch.tensor(0.5))  # half of the weight lies on each level
    torch.testing.assert_close(out[0, 1, 1], torch.tensor(0.5))


def test_autocast_does_not_lower_the_precision():
    made = layer()
    query, reference, value = inputs()
    exact = made(query, reference, value, SIZES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = made(query, reference, value, SIZES)
    out.sum().backward()
    assert out.dtype == torch.float32
    assert torch.equal(out, exact)
    grads = [x.grad.clone() for x in made.parameters()]
    made.zero_grad()
    exact.sum().backward()
    for grad, parameter in zip(grads, made.parameters(), strict=True):
        assert torch.equal(grad, parameter.grad)


def test_a_bfloat16_layer_keeps_places_in_float32():
    made = layer().bfloat16()
    query, reference, value = inputs()
    out = made(query.bfloat16(), reference, value.bfloat16(), SIZES)
    assert out.dtype == torch.bfloat16
    exact = layer().bfloat16().float()(query.bfloat16().float(), reference, value.bfloat16().float(), SIZES)
    # values of size 1 rounded to 8 bits in three products, one after the other
    torch.testing.assert_close(out.float(), exact, rtol=0, atol=0.03)


def test_recomputation_gives_the_same_gradients():
    made = layer()
    query, reference, value = inputs()
    grads = []
    for run in (made, lambda *x: checkpoint(made, *x, use_reentrant=False)):
        made.zero_grad()
        run(query, reference, value, SIZES).square().sum().backward()
        grads.append([x.grad.clone() for x in made.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


class Maps(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = layer()

    def forward(self, coarse, fine):
        sizes = [(x.shape[2], x.shape[3]) for x in (coarse, fine)]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in (coarse, fine)], 1)
        reference = torch.full((2,), 0.4).expand(tokens.shape[1], 2)
        return self.attention(tokens, reference, tokens, sizes)


def test_exported_graphs_take_maps_of_any_size():
    module = Maps().eval()
    any_size = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    example = (torch.randn(2, 12, 4, 6), torch.randn(2, 12, 8, 12))
    program = torch.export.export(module, example, dynamic_shapes=(any_size, any_size))
    other = (torch.randn(3, 12, 5, 3), torch.randn(3, 12, 10, 6))
    torch.testing.assert_close(program.module()(*other), module(*other), rtol=1e-4, atol=1e-5)
