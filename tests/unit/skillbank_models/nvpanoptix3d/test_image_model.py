"""The whole 2D part on a tiny network: shapes, gradients, precision, batches, padding and wrong settings."""

import pytest
import torch
from scene_cases import tiny_spec
from torch import nn

from skillbank.errors import InvalidValueError
from skillbank_models.nvpanoptix3d.image_model import build_image_model
from skillbank_models.nvpanoptix3d.padding import pad_to, padded_size

SIZES = [(120, 160)] * 2


def build(seed=0, *, recompute=False, **settings):
    torch.manual_seed(seed)
    return build_image_model(tiny_spec(**settings), activation_checkpoint=recompute)


def images(batch=2, size=(128, 160)):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(1)) * 255


def tensors(output):
    flat = [*output.predictions, *output.levels]
    return flat + [value for value in output if isinstance(value, torch.Tensor)]


def test_outputs_have_the_promised_shapes():
    found = build()(images(), all_layers=True, sizes=SIZES)
    assert found.predictions.class_logits.shape == (3, 2, 12, 14)
    assert found.predictions.mask_embeds.shape == (3, 2, 12, 32)
    assert found.predictions.mask_features.shape == (2, 32, 24, 32)
    assert found.queries.shape == (2, 12, 32)
    assert found.depth.shape == (2, 84, 112)
    assert (found.depth > 0).all()
    assert found.depth_features.shape == (2, 32, 48, 64)
    assert found.pose.shape == (2, 9)
    assert found.occupancy.shape == (2, 25, 60, 80)
    assert [level.shape[1:] for level in found.levels] == [(32, 3, 4), (32, 6, 8), (32, 12, 16)]
    coarse = build(model__compat__depth_features="coarse")(images(), all_layers=False)
    assert coarse.depth_features.shape == (2, 32, 6, 8)
    assert len(coarse.predictions.class_logits) == 1


def everything(found):
    parts = (found.predictions.class_logits, found.predictions.mask_logits(), found.depth, found.occupancy)
    return sum(part.square().mean() for part in parts)


@pytest.mark.parametrize("occupancy", ["reduced", "published"])
def test_every_parameter_that_is_taught_gets_a_gradient(occupancy):
    model = build(model__compat__occupancy_head=occupancy)
    everything(model(images(), all_layers=True, sizes=SIZES)).backward()
    silent = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert silent == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    # no loss looks at the camera head, and single images are never masked
    assert {name for name in silent if not name.startswith("backbone.camera_head.")} == {
        "backbone.aggregator.patch_embed.mask_token"
    }


def test_recomputation_changes_nothing():
    found = []
    for recompute in (False, True):
        model = build(recompute=recompute)
        everything(model(images(), all_layers=True, sizes=SIZES)).backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, wanted in found[0].items():
        if wanted is not None:
            torch.testing.assert_close(found[1][name], wanted, rtol=1e-3, atol=1e-5, msg=name)


def test_the_backbone_is_kept_as_it_is_when_asked():
    model = build(model__backbone__freeze=True).train()
    assert not any(parameter.requires_grad for parameter in model.backbone.aggregator.parameters())
    assert not model.backbone.aggregator.training
    everything(model(images(), all_layers=False)).backward()
    taught = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert taught
    assert all(model.get_parameter(name).grad is not None for name in taught)


def test_bfloat16_stays_finite_and_close():
    model = build().eval()
    with torch.no_grad():
        exact = model(images(), all_layers=True, sizes=SIZES)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(images(), all_layers=True, sizes=SIZES)
    assert all(value.isfinite().all() for value in tensors(found))
    # three significant digits through some thirty layers
    torch.testing.assert_close(found.depth.float(), exact.depth, rtol=0.1, atol=0.05)
    torch.testing.assert_close(
        found.predictions.class_logits.float(), exact.predictions.class_logits, rtol=0.2, atol=0.3
    )
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = everything(model(images(), all_layers=True, sizes=SIZES))
    loss.backward()
    taught = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad.isfinite().all() for parameter in taught)


def test_a_batch_is_as_good_as_its_images_one_by_one():
    model, given = build().eval(), images()
    sizes = [(120, 160), (100, 140)]
    with torch.no_grad():
        together = model(given, all_layers=True, sizes=sizes)
        for image in range(2):
            alone = model(given[image : image + 1], all_layers=True, sizes=sizes[image : image + 1])
            for name in ("queries", "depth", "depth_features", "pose", "occupancy"):
                torch.testing.assert_close(
                    getattr(together, name)[image : image + 1], getattr(alone, name), rtol=1e-3, atol=1e-4
                )
            torch.testing.assert_close(
                together.predictions.class_logits[:, image], alone.predictions.class_logits[:, 0],
                rtol=1e-3, atol=1e-4,
            )  # fmt: skip


def test_padding_inside_equals_padding_before():
    model, given = build().eval(), images(size=(120, 150))
    with torch.no_grad():
        inside = model(given, all_layers=False)
        before = model(pad_to(given, (128, 160)), all_layers=False, sizes=[(120, 150)] * 2)
    for a, b in zip(tensors(inside), tensors(before), strict=True):
        torch.testing.assert_close(a, b)
    assert model.padded_size(120, 150) == padded_size(120, 150, 32) == (128, 160)
    assert padded_size(64, 96, 32) == (64, 96)


def test_wrong_settings_are_told_all_at_once():
    with pytest.raises(InvalidValueError) as caught:
        build(
            model__sem_seg_head__convs_dim=40,
            model__sem_seg_head__adapter_dim=30,
            model__sem_seg_head__in_features=["res2", "res3", "res4"],
        )
    text = str(caught.value)
    assert "model.sem_seg_head.convs_dim: 40 is not a multiple of 32" in text
    assert "-o model.sem_seg_head.convs_dim=64" in text
    assert "model.sem_seg_head.adapter_dim: 30 is not a multiple of 4" in text
    assert "model.sem_seg_head.in_features: res5 is not among res2, res3, res4" in text
    with pytest.raises(InvalidValueError, match="hidden_dim: 6 is not a multiple of 4"):
        build(model__mask_former__hidden_dim=6, model__mask_former__nheads=2)


def test_full_size_has_the_parameters_of_the_description():
    """Section 12, in millions; what nothing reads is left out, and the occupancy head is the reduced one."""
    with torch.device("meta"):
        model = build_image_model(tiny_spec(base={}), activation_checkpoint=False)
    head = model.sem_seg_head

    def millions(module: nn.Module) -> float:
        return sum(parameter.numel() for parameter in module.parameters()) / 1e6

    assert millions(model.backbone.aggregator) == pytest.approx(909.1, abs=0.05)
    assert millions(model.backbone.camera_head) == pytest.approx(216.2, abs=0.05)
    assert millions(model.backbone.depth_head) == pytest.approx(32.65, abs=0.01)
    assert millions(head.adapter) == pytest.approx(146.3, abs=0.05)
    assert millions(head.pixel_decoder) == pytest.approx(6.04, abs=0.01)
    assert millions(head.predictor) == pytest.approx(19.4 - 2.6, abs=0.1)
    assert millions(head.depth_projector) == pytest.approx(2.63 * 3 / 4, abs=0.01)
    assert millions(head.occupancy) == pytest.approx(7.77, abs=0.01)
