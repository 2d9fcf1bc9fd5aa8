"""The assembled network: sizes, shapes, precision, recomputation, and bad images."""

import pytest
import torch
from mask2former_pairs import SMALL, model_spec
from torch.profiler import ProfilerActivity, profile

from skillbank.errors import ShapeError
from skillbank_models.layers.deformable_attention import MultiScaleDeformableAttention
from skillbank_models.mask2former.model import Mask2Former, build_model


def build(activation_checkpoint: bool = False, **settings) -> Mask2Former:
    torch.manual_seed(0)
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    return build_model(model_spec({**SMALL, **dotted}), activation_checkpoint=activation_checkpoint)


def images(height: int = 64, width: int = 96, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(2))


def millions(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


# Totals and parts of the published models, in millions: 100 queries, 150 classes.
@pytest.mark.parametrize(
    ("size", "window", "total", "pixel_decoder"),
    [
        ("tiny", 7, 47.44, 5.42),
        ("small", 7, 68.76, 5.42),
        ("base", 12, 106.92, 5.54),
        ("large", 12, 215.49, 5.79),
    ],
)
def test_parameter_counts(size, window, total, pixel_decoder):
    settings = {
        "backbone.swin.type": size,
        "backbone.swin.window_size": window,
        "sem_seg_head.num_classes": 150,
    }
    with torch.device("meta"):
        model = build_model(model_spec(settings), activation_checkpoint=False)
    assert round(millions(model), 2) == total
    assert round(millions(model.sem_seg_head.pixel_decoder), 2) == pixel_decoder
    predictor = model.sem_seg_head.predictor
    assert round(millions(predictor) - millions(predictor.class_embed), 2) == 14.46


@pytest.mark.parametrize(("height", "width", "batch"), [(32, 32, 1), (64, 160, 3), (96, 32, 2)])
def test_any_multiple_of_32_and_any_batch(height, width, batch):
    model = build(sem_seg_head__convs_dim=64).eval()  # a group norm needs more than one value
    with torch.inference_mode():
        found = model(images(height, width, batch), all_layers=False)
    assert found.class_logits.shape == (1, batch, 11, 8)
    assert found.mask_logits().shape == (batch, 11, height // 4, width // 4)
    assert found.mask_logits().isfinite().all()


def test_images_of_a_batch_do_not_meet():
    model = build().eval()
    with torch.no_grad():
        both = model(images(), all_layers=False).mask_logits()
        alone = model(images()[1:], all_layers=False).mask_logits()
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 3, 64, 100), (2, 1, 64, 64), (3, 64, 64)])
def test_other_images_are_refused(shape):
    with pytest.raises(ShapeError, match="multiples of 32") as caught:
        build()(torch.zeros(shape), all_layers=False)
    assert str(shape) in str(caught.value)


def test_bfloat16_stays_close():
    model = build().eval()
    with torch.inference_mode():
        full = model(images(), all_layers=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(images(), all_layers=False)
    assert half.class_logits.dtype == torch.bfloat16
    # 8 bits of mantissa over some thirty steps; an attention mask may flip at single pixels
    for exact, rough in ((full.class_logits, half.class_logits), (full.mask_logits(), half.mask_logits())):
        assert (rough.float() - exact).square().mean().sqrt() < 0.05 * exact.square().mean().sqrt()


def test_bfloat16_trains_with_and_without_recomputation():
    for recompute in (False, True):
        model = build(recompute)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(images(), all_layers=True)
            loss = found.class_logits.float().square().mean() + found.mask_logits().float().square().mean()
        loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_precise_msda_reaches_every_layer_and_gives_the_same():
    precise, fast = build(precise_msda=True).eval(), build().eval()
    flags = [
        [
            module.deterministic
            for module in model.modules()
            if isinstance(module, MultiScaleDeformableAttention)
        ]
        for model in (precise, fast)
    ]
    assert flags == [[True, True], [False, False]]
    gradients = []
    for model in (precise, precise, fast):
        model.zero_grad()
        found = model(images(), all_layers=False)
        found.mask_logits().square().mean().backward()
        gradients.append(model.get_parameter("sem_seg_head.pixel_decoder.input_proj.2.0.weight").grad.clone())
    assert torch.equal(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], gradients[2], rtol=0, atol=1e-5)


def held_bytes(model: Mask2Former) -> int:
    """Memory that a forward pass leaves behind for the backward pass, counted at the allocator."""
    source = images()
    model(source, all_layers=True)  # positions are kept from here on
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        predictions = model(source, all_layers=True)
    assert predictions.class_logits.requires_grad
    assert found.profiler is not None
    # key_averages would sum up the same in a hundred times the time
    events = found.profiler.kineto_results.events()
    return sum(event.nbytes() for event in events if event.name() == "[memory]")


def test_activation_checkpointing_saves_memory_and_keeps_the_gradients():
    shallow = {"backbone__swin__depths": [1, 1, 1, 1], "backbone__swin__drop_path_rate": 0.0}
    kept, recomputed = build(**shallow), build(True, **shallow)
    backbone_only = build(backbone__swin__use_checkpoint=True, **shallow)
    full, least, between = (held_bytes(model) for model in (kept, recomputed, backbone_only))
    assert least < 0.5 * full
    assert least < between < full
    for model in (kept, recomputed):
        found = model(images(), all_layers=True)
        (found.class_logits.square().mean() + found.mask_logits(2).square().mean()).backward()
    for (name, expected), parameter in zip(kept.named_parameters(), recomputed.parameters(), strict=True):
        assert expected.grad is not None, name
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_efficientvit_fits_the_decoders():
    model = build(backbone__type="efficientvit", backbone__efficientvit__name="b0").eval()
    with torch.inference_mode():
        found = model(images(64, 64, 1), all_layers=False)
    assert found.mask_logits().shape == (1, 11, 16, 16)
