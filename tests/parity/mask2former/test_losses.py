"""Matching and losses against those of Hugging Face transformers, at the same points."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from mask_cases import random_predictions, random_targets

from skillbank_models.data.batch import MaskTarget
from skillbank_models.layers.mask_criterion import MaskCriterion
from skillbank_models.layers.predictions import MaskPredictions

QUERIES, CLASSES, LAYERS = 12, 7, 4
POINTS, CANDIDATES, EVEN = 400, 1200, 100
# both sides sum a few hundred float32 numbers of size 1..30, in another order
TOLERANCE = 2e-6


class Replay:
    """Hands out prepared points in order, and wants to be asked for exactly those."""

    def __init__(self, prepared: list[torch.Tensor]) -> None:
        self._left = prepared

    def __call__(self, rows: int, points: int, device: torch.device) -> torch.Tensor:
        found = self._left.pop(0)
        assert found.shape == (rows, points, 2)
        return found.to(device)

    def rand(self, *size: int, device: torch.device | None = None) -> torch.Tensor:
        """In place of `torch.rand`."""
        return self(*size[:2], torch.device(device or "cpu"))

    @property
    def is_used_up(self) -> bool:
        return not self._left


def same_points(counts: Sequence[int], layers: int, seed: int = 0) -> tuple[Replay, Replay]:
    """The same places in the order in which we and they ask for them."""
    draw = torch.Generator().manual_seed(seed)
    pairs = [min(QUERIES, count) for count in counts]
    matching = [torch.rand(1, POINTS, 2, generator=draw) for _ in counts]
    candidates = [torch.rand(layers, n, CANDIDATES, 2, generator=draw) for n in pairs]
    even = [torch.rand(layers, n, EVEN, 2, generator=draw) for n in pairs]
    ours = [points for points, n in zip(matching, pairs, strict=True) if n]
    for first, rest, n in zip(candidates, even, pairs, strict=True):
        ours += [first.flatten(0, 1), rest.flatten(0, 1)] if n else []
    theirs = []
    for layer in [layers - 1, *range(layers - 1)]:
        theirs += matching
        theirs.append(torch.cat([first[layer] for first in candidates]))
        theirs.append(torch.cat([rest[layer] for rest in even]))
    return Replay(ours), Replay(theirs)


def criterion(points: Replay, *, deep_supervision: bool = True) -> MaskCriterion:
    return MaskCriterion(
        num_classes=CLASSES,
        class_weight=2.0,
        mask_weight=5.0,
        dice_weight=5.0,
        no_object_weight=0.1,
        num_points=POINTS,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        deep_supervision=deep_supervision,
        points=points,
    )


class Theirs:
    """`Mask2FormerLoss` with a note of what its matcher found."""

    def __init__(self, points: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
        from transformers import Mask2FormerConfig, SwinConfig
        from transformers.models.mask2former import modeling_mask2former as module

        config = Mask2FormerConfig(backbone_config=SwinConfig(), num_labels=CLASSES, train_num_points=POINTS)
        self._loss = module.Mask2FormerLoss(config, {})
        self._points = points
        self._patch = monkeypatch
        self.matches: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
        self._loss.matcher.register_forward_hook(lambda _module, _inputs, out: self.matches.append(out))

    def __call__(
        self, predictions: MaskPredictions, targets: Sequence[MaskTarget]
    ) -> dict[str, torch.Tensor]:
        masks = [predictions.mask_logits(layer) for layer in range(LAYERS)]
        earlier = [
            {"masks_queries_logits": mask, "class_queries_logits": classes}
            for mask, classes in zip(masks[:-1], predictions.class_logits[:-1], strict=True)
        ]
        with self._patch.context() as patch:
            patch.setattr(torch, "rand", self._points.rand)
            return self._loss(
                masks[-1],
                predictions.class_logits[-1],
                [target.masks.float() for target in targets],
                [target.labels for target in targets],
                earlier,
            )


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("counts", "size"),
    [
        ((3, 5), (64, 96)),
        ((1,), (40, 56)),
        ((0, 4), (64, 64)),
        ((4, 0, 1), (64, 64)),
        ((12, 30), (64, 64)),  # as many masks as queries, and more
    ],
    ids=str,
)
@pytest.mark.usefixtures("threads")
def test_losses_matches_and_gradients_are_theirs(counts, size, monkeypatch):
    targets = random_targets(counts, classes=CLASSES, size=size)
    predictions = random_predictions(
        layers=LAYERS, images=len(counts), queries=QUERIES, classes=CLASSES, width=16, size=(16, 24)
    )
    ours, theirs = same_points(counts, LAYERS)
    own = criterion(ours)
    matches = []
    own.matcher.register_forward_hook(lambda _module, _inputs, out: matches.extend(out))
    found = own(predictions, targets)
    own.total(found).backward()
    gradients = [tensor.grad.clone() for tensor in predictions]
    for tensor in predictions:
        tensor.grad = None

    reference = Theirs(theirs, monkeypatch)
    wanted = reference(predictions, targets)
    assert ours.is_used_up
    assert theirs.is_used_up

    assert len(reference.matches) == LAYERS
    for layer, match in zip([LAYERS - 1, *range(LAYERS - 1)], reference.matches, strict=True):
        for image, (queries, rows) in enumerate(match):
            assert matches[image].queries[layer].tolist() == queries.tolist()
            assert matches[image].rows[layer].tolist() == rows.tolist()

    assert len(found) == 3 * LAYERS
    for name, value in wanted.items():
        own_name = name.replace("cross_entropy", "ce")
        torch.testing.assert_close(found[own_name], value, rtol=TOLERANCE, atol=TOLERANCE, msg=own_name)
    weights = {"ce": 2.0, "mask": 5.0, "dice": 5.0}
    total = sum(
        value * weights[name.replace("cross_entropy", "ce").split("_")[1]] for name, value in wanted.items()
    )
    total.backward()
    for name, gradient, tensor in zip(predictions._fields, gradients, predictions, strict=True):
        # gradients are sums over pairs and layers of terms up to 1
        torch.testing.assert_close(gradient, tensor.grad, rtol=1e-4, atol=2e-6, msg=name)


@pytest.mark.usefixtures("threads")
def test_a_mask_that_differs_is_noticed(monkeypatch):
    targets = random_targets((3,), classes=CLASSES, size=(64, 64))
    predictions = random_predictions(
        layers=LAYERS, images=1, queries=QUERIES, classes=CLASSES, width=16, size=(16, 16)
    )
    ours, theirs = same_points((3,), LAYERS)
    changed = [MaskTarget(targets[0].labels, targets[0].masks.clone())]
    changed[0].masks[0, :8] ^= True
    found = criterion(ours)(predictions, changed)
    wanted = Theirs(theirs, monkeypatch)(predictions, targets)
    assert abs(float((found["loss_mask"] - wanted["loss_mask"]).detach())) > 1e3 * TOLERANCE
