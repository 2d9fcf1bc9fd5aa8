"""Attention that looks at a few learned places of several maps instead of at every pixel.

Letters: `B` batch, `S` pixels of all levels, `Q` queries, `M` heads, `C` channels, `d = C / M`,
`L` levels, `P` points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skillbank.errors import InvalidValueError
from skillbank_models.layers.linear import Linear
from skillbank_models.ops.deformable_attention import deformable_attention

__all__ = ["MultiScaleDeformableAttention"]


class MultiScaleDeformableAttention(nn.Module):
    """Every query samples `num_points` places of each level around its reference point, for each head.

    Runs in at least float32, also under autocast: a bfloat16 coordinate is wrong by pixels on a large map.

    Args:
        dim: channels C of queries, values and output.
        num_levels: maps that are sampled, L.
        nheads: heads M; must divide `dim`.
        num_points: samples P of each level and head.
        deterministic: gradients that are bitwise equal from run to run, also on CUDA, at some cost in time.

    Raises:
        InvalidValueError: `nheads` does not divide `dim`.

    Source: Zhu et al. 2020, Deformable DETR, eq. 3. Names of parameters as in facebookresearch/Mask2Former
    (MIT).
    """

    def __init__(
        self, *, dim: int, num_levels: int, nheads: int, num_points: int, deterministic: bool
    ) -> None:
        super().__init__()
        if nheads < 1 or dim % nheads:
            raise InvalidValueError(
                f"deformable attention: {nheads} heads do not divide {dim} channels; "
                "the number of channels must be a multiple of the number of heads.",
                hint="set convs_dim and nheads so that convs_dim % nheads == 0, e.g. 256 and 8",
                value=nheads,
            )
        self.num_levels = num_levels
        self.nheads = nheads
        self.num_points = num_points
        self.deterministic = deterministic
        samples = nheads * num_levels * num_points
        self.sampling_offsets = Linear(dim, samples * 2)
        self.attention_weights = Linear(dim, samples)
        self.value_proj = Linear(dim, dim)
        self.output_proj = Linear(dim, dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start with equal weights, head m looking in direction m, its point p at p + 1 pixels."""
        angles = torch.arange(self.nheads, dtype=torch.float64) * (2 * math.pi / self.nheads)  # (M,)
        directions = torch.stack([angles.cos(), angles.sin()], -1)  # (M, 2)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        distances = torch.arange(1, self.num_points + 1)  # (P,)
        offsets = directions[:, None, None] * distances[:, None]  # (M, 1, P, 2)
        offsets = offsets.expand(-1, self.num_levels, -1, -1)  # (M, L, P, 2)
        nn.init.zeros_(self.sampling_offsets.weight)
        self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self, query: Tensor, reference: Tensor, value_input: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C), position already added.
            reference: x and y in 0..1, (Q, 2) or (B, Q, 2) for all levels, or (B, Q, L, 2).
            value_input: (B, S, C), levels one after the other, rows of pixels.
            shapes: (height, width) of each of the L levels; S is the sum of their products.

        Returns:
            (B, Q, C), in the dtype of the parameters.
        """
        batch, queries, _ = query.shape
        split = (batch, queries, self.nheads, self.num_levels, self.num_points)
        dtype = self.value_proj.weight.dtype
        with torch.autocast(query.device.type, enabled=False):
            query, value_input = query.to(dtype), value_input.to(dtype)
            value = self.value_proj(value_input).unflatten(-1, (self.nheads, -1))  # (B, S, M, d)
            logits = self.attention_weights(query).reshape(*split[:3], -1)  # (B, Q, M, L*P)
            weights = _softmax(logits).reshape(split)  # (B, Q, M, L, P)
            offsets = self.sampling_offsets(query).reshape(*split, 2)  # (B, Q, M, L, P, 2)
            locations = _locations(reference, offsets, shapes)
            mixed = deformable_attention(
                value, shapes, locations, weights, deterministic=self.deterministic
            )  # (B, Q, C)
            return self.output_proj(mixed)  # type: ignore[no-any-return]  # nn.Module calls are untyped


def _softmax(logits: Tensor) -> Tensor:
    """Softmax of the last axis; for the dozen samples of a head torch's own is six times slower on a CPU."""
    if logits.device.type != "cpu" or torch.compiler.is_compiling():
        return logits.softmax(-1)
    raised = (logits - logits.detach().amax(-1, keepdim=True)).exp_()
    return raised / raised.sum(-1, keepdim=True)


def _locations(reference: Tensor, offsets_px: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Reference points moved by offsets in pixels of each level, (B, Q, M, L, P, 2) in 0..1."""
    dtype = torch.promote_types(offsets_px.dtype, torch.float32)
    reference, offsets_px = reference.to(dtype), offsets_px.to(dtype)
    if reference.dim() < 4:
        reference = reference.unsqueeze(-2)  # (B, Q, 1, 2)
    reference = reference.unsqueeze(-3).unsqueeze(-2)  # (B, Q, 1, L, 1, 2)
    if torch.compiler.is_compiling():
        # Symbolic sizes stay symbolic only as numbers, never inside a tensor.
        steps = [
            torch.stack([offsets_px[:, :, :, level, :, 0] / w, offsets_px[:, :, :, level, :, 1] / h], -1)
            for level, (h, w) in enumerate(shapes)
        ]  # L x (B, Q, M, P, 2)
        return reference + torch.stack(steps, 3)  # (B, Q, M, L, P, 2)
    levels, points = offsets_px.shape[3:5]
    steps_per_px = torch.tensor(
        [(1 / w, 1 / h) for h, w in shapes for _ in range(points)], dtype=dtype
    ).flatten()
    # One operation along long rows instead of several along pairs, which a CPU takes one by one.
    start = reference.expand(*reference.shape[:-3], levels, points, 2).flatten(-3)  # (B, Q, 1, L*P*2)
    places = torch.addcmul(
        start, offsets_px.flatten(-3), steps_per_px.to(start.device, non_blocking=True)
    )  # (B, Q, M, L*P*2)
    return places.view_as(offsets_px)  # (B, Q, M, L, P, 2)
