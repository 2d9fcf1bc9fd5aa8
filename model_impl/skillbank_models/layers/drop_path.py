"""Stochastic depth: whole residual branches are dropped, one sample at a time."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["DropPath"]


class DropPath(nn.Module):
    """Zero the branch of some samples while training, and scale the others so that the mean stays.

    Args:
        rate: share of samples whose branch is dropped, 0 to 1.

    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth"; kept branches are scaled up in training
    instead of all of them down in evaluation.
    """

    def __init__(self, *, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop branches of samples (first axis); the identity when evaluating."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)  # (B, 1, ...)
        return x * (kept / keep) if keep > 0.0 else x * kept

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate:.3f}"
