"""Numbers that the 2D segmentation networks report."""

from __future__ import annotations

from skillbank.specs.base import Metric

__all__ = ["segmentation_metrics"]

_SIZES = {"s": "below 32 x 32 pixels", "m": "from 32 x 32 to 96 x 96 pixels", "l": "above 96 x 96 pixels"}


def _semantic() -> tuple[Metric, ...]:
    return (
        Metric(
            name="mIoU",
            direction="max",
            description="Mean intersection over union of the classes that occur, 0 to 1.",
            aliases=("test_mIoU", "val_mIoU", "miou"),
            pattern=r"mIoU[/_].+",
            primary=True,
        ),
        Metric(
            name="ACC_all",
            direction="max",
            description="Share of labelled pixels with the right class, 0 to 1.",
            aliases=("all_acc", "pixel_accuracy", "test_ACC_all", "test_all_acc"),
            pattern=r"ACC[/_].+",
        ),
        Metric(
            name="mACC",
            direction="max",
            description="Mean over classes of the share of their pixels found, 0 to 1.",
            aliases=("mean_class_accuracy",),
        ),
        Metric(
            name="fwIoU",
            direction="max",
            description="Intersection over union weighted by the pixels of each class, 0 to 1.",
        ),
        Metric(
            name="IoU",
            direction="max",
            description="Intersection over union of one class, as IoU_<class>, 0 to 1.",
            pattern=r"IoU[/_].+",
        ),
    )


def _panoptic(when: dict[str, str]) -> tuple[Metric, ...]:
    meanings = {
        "PQ": "Panoptic quality, the product of SQ and RQ",
        "SQ": "Segmentation quality, the mean overlap of matched segments",
        "RQ": "Recognition quality, the F1 score of segments matched at an overlap above one half",
    }
    groups = {"": "over all classes", "_th": "over things", "_st": "over stuff"}
    return tuple(
        Metric(name=name + suffix, direction="max", description=f"{meaning}, {group}, 0 to 1.", when=when)
        for suffix, group in groups.items()
        for name, meaning in meanings.items()
    )


def _instance(when: dict[str, str]) -> tuple[Metric, ...]:
    precision = {
        "AP": "over overlaps from 0.5 to 0.95",
        "AP50": "at an overlap of 0.5",
        "AP75": "at an overlap of 0.75",
        **{f"AP{size}": f"of instances {meaning}" for size, meaning in _SIZES.items()},
    }
    return (
        *(
            Metric(
                name=name,
                direction="max",
                description=f"Average precision of instance masks {meaning}, 0 to 1.",
                aliases=(f"segm/{name}",),
                when=when,
            )
            for name, meaning in precision.items()
        ),
        *(
            Metric(
                name=f"AR{count}",
                direction="max",
                description=f"Average recall of instance masks with {count} detections per image, 0 to 1.",
                aliases=(f"AR@{count}",),
                when=when,
            )
            for count in (1, 10, 100)
        ),
    )


def _losses() -> tuple[Metric, ...]:
    return (
        Metric(
            name="val_loss",
            direction="min",
            description="Weighted sum of all losses, mean over validation batches.",
            actions=("train",),
        ),
        Metric(
            name="train_loss",
            direction="min",
            description="Weighted sum of all losses in training.",
            aliases=("loss",),
            actions=("train",),
        ),
        Metric(
            name="loss_ce",
            direction="min",
            description="Class loss of the last layer; of layer n as loss_ce_n.",
            pattern=r"loss_ce_\d+",
            actions=("train",),
        ),
        Metric(
            name="loss_mask",
            direction="min",
            description="Binary cross entropy of the matched masks, last layer; of layer n as loss_mask_n.",
            pattern=r"loss_mask_\d+",
            actions=("train",),
        ),
        Metric(
            name="loss_dice",
            direction="min",
            description="Dice loss of the matched masks, last layer; of layer n as loss_dice_n.",
            pattern=r"loss_dice_\d+",
            actions=("train",),
        ),
    )


def segmentation_metrics(mode_key: str | None) -> tuple[Metric, ...]:
    """Metrics of all three tasks and the losses.

    Args:
        mode_key: dotted key that selects the one task that is measured; None = all three may be in one run.
    """
    panoptic = {mode_key: "panoptic"} if mode_key else {}
    instance = {mode_key: "instance"} if mode_key else {}
    return (*_semantic(), *_panoptic(panoptic), *_instance(instance), *_losses())
