"""The mask loss against its definition in float64, value and gradients, in one go and in parts."""

import pytest
import torch
import torch.nn.functional as F

from skillbank_models.nvpanoptix3d import voxel_losses
from skillbank_models.nvpanoptix3d.voxel_losses import mask_loss


def case(masks: int, voxels: int) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(masks * 100 + voxels)
    return (
        torch.randn(masks, 5, generator=random),
        torch.randn(voxels, 5, generator=random) * 2,
        torch.rand(masks, voxels, generator=random) > 0.6,
        torch.randint(0, 11, (voxels,), generator=random).float(),
    )


def definition(queries: torch.Tensor, embeds: torch.Tensor, masks: torch.Tensor, weighting: torch.Tensor):
    errors = F.binary_cross_entropy_with_logits(
        queries @ embeds.t(), masks.to(queries.dtype), reduction="none"
    )
    return (errors * weighting).mean(1).sum()


@pytest.mark.parametrize("chunk", [7, 2**21])
@pytest.mark.parametrize(("masks", "voxels"), [(3, 11), (1, 1), (4, 2)])
def test_value_and_gradients(monkeypatch: pytest.MonkeyPatch, masks: int, voxels: int, chunk: int) -> None:
    monkeypatch.setattr(voxel_losses, "CHUNK", chunk)
    queries, embeds, truth, weighting = case(masks, voxels)
    exact = [tensor.double().requires_grad_() for tensor in (queries, embeds)]
    expected = definition(*exact, truth, weighting.double())
    (expected * 3.0).backward()
    ours = [tensor.requires_grad_() for tensor in (queries, embeds)]
    found = mask_loss(*ours, truth, weighting)
    (found * 3.0).backward()
    # sums of at most 33 terms in 32 bits
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad.float(), rtol=1e-5, atol=1e-6)


def test_one_side_alone_learns() -> None:
    queries, embeds, truth, weighting = case(2, 9)
    mask_loss(queries, embeds.requires_grad_(), truth, weighting).backward()
    assert queries.grad is None
    assert embeds.grad is not None
    assert embeds.grad.abs().sum() > 0


def test_nothing_is_kept_without_gradients() -> None:
    queries, embeds, truth, weighting = case(2, 9)
    found = mask_loss(queries, embeds, truth, weighting)
    assert not found.requires_grad
    torch.testing.assert_close(found, definition(queries, embeds, truth, weighting))
