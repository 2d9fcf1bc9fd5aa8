"""Position tables: kept while nothing changes them, never stale, usable by training afterwards."""

import copy

import torch

from skillbank_models.nvpanoptix3d.vggt.patch_embedding import PatchEmbedding, resize_positions


def build(**changes):
    torch.manual_seed(0)
    given = {
        "dim": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2.0, "patch_size": 4, "position_grid": 5,
        "num_registers": 2, "use_checkpoint": False,
    }  # fmt: skip
    return PatchEmbedding(**{**given, **changes}).eval()


def test_resized_positions_are_kept_while_they_stay_the_same():
    net = build()
    with torch.no_grad():
        first = net.positions((3, 4))
        assert net.positions((3, 4)) is first
        assert net.positions((4, 3)).shape == first.shape == (1, 13, 16)
        net.pos_embed.add_(1.0)
        torch.testing.assert_close(net.positions((3, 4)), first + 1)
        net.load_state_dict(build().state_dict())
        torch.testing.assert_close(net.positions((3, 4)), first)
        net.load_state_dict({"pos_embed": torch.zeros_like(net.pos_embed)}, strict=False, assign=True)
        assert not net.positions((3, 4)).any()


def test_many_grids_do_not_pile_up():
    net = build()
    with torch.no_grad():
        for rows in range(1, 30):
            net.positions((rows, 2))
    assert len(net._kept) <= 8


def test_the_own_grid_is_taken_as_it_is():
    net = build()
    assert net.positions((5, 5)) is net.pos_embed


def test_positions_are_taught_in_training_and_kept_ones_serve_it():
    net = build()
    images = torch.randn(1, 3, 12, 16)
    with torch.inference_mode():
        expected = net(images)
    out = net.train()(images)
    torch.testing.assert_close(out, expected)
    assert not net._kept
    out.square().sum().backward()
    assert net.pos_embed.grad.abs().sum() > 0
    frozen = build().requires_grad_(False)
    with torch.inference_mode():
        frozen(images)
    images.requires_grad_()
    frozen(images).square().sum().backward()  # what was kept is no inference tensor
    assert images.grad.abs().sum() > 0


def test_mask_token_has_no_gradient_and_the_rest_has():
    net = build().train()
    net(torch.randn(2, 3, 8, 12)).square().sum().backward()
    without = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    assert without == {"mask_token"}
    assert not net.mask_token.requires_grad


def test_recomputed_blocks_give_the_same_gradients():
    images = torch.randn(2, 3, 8, 12)
    found = []
    for use_checkpoint in (False, True):
        net = build(depth=2, use_checkpoint=use_checkpoint).train()
        net(images).square().sum().backward()
        found.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    assert len(found[0]) == len(found[1]) > 20
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_no_registers():
    net = build(num_registers=0)
    assert "register_tokens" not in net.state_dict()
    assert net(torch.randn(1, 3, 8, 12)).shape == (1, 6, 16)


def test_half_precision_tables_are_resized_in_single():
    table = build().pos_embed.detach()
    half = resize_positions(table.bfloat16(), (3, 4))
    assert half.dtype == torch.bfloat16
    # one rounding of the input and one of the result, of numbers below 0.1
    torch.testing.assert_close(half.float(), resize_positions(table, (3, 4)), rtol=0.01, atol=5e-4)


def test_copies_are_independent():
    net = build()
    with torch.no_grad():
        net.positions((3, 4))
        other = copy.deepcopy(net)
        other.pos_embed.zero_()
        assert not other.positions((3, 4)).any()
        assert net.positions((3, 4)).any()
