"""Dataset settings of NVPanoptix3D."""

from __future__ import annotations

from typing import Literal

from skillbank.specs.base import StrictModel, section, setting
from skillbank.specs.common import PositiveInt

__all__ = ["Dataset"]


class TrainSplit(StrictModel):
    """Images to learn from."""

    base_dir: str | None = setting(
        None, "Folder that holds data/<scene_id>/..., or that data folder itself.", mandatory_for=("train",)
    )
    json_path: str | None = setting(None, "JSON list of the images in this split.", mandatory_for=("train",))
    batch_size: int = setting(
        1,
        "Images per GPU and step; the published recipes use 16 in stage 1 and 1 in stage 2.",
        ge=1,
        popular=True,
    )
    num_workers: int = setting(1, "Loader processes per GPU.", ge=0)


class ValSplit(StrictModel):
    """Images to validate on while training."""

    base_dir: str | None = setting(
        None, "Folder that holds data/<scene_id>/..., or that data folder itself.", mandatory_for=("train",)
    )
    json_path: str | None = setting(None, "JSON list of the images in this split.", mandatory_for=("train",))
    batch_size: int = setting(1, "Images per GPU and step.", ge=1)
    num_workers: int = setting(1, "Loader processes per GPU.", ge=0)


class TestSplit(StrictModel):
    """Images that the evaluate action measures."""

    base_dir: str | None = setting(
        None,
        "Folder that holds data/<scene_id>/..., or that data folder itself.",
        mandatory_for=("evaluate",),
    )
    json_path: str | None = setting(
        None, "JSON list of the images in this split.", mandatory_for=("evaluate",)
    )
    batch_size: int = setting(1, "Images per GPU and step.", ge=1)
    num_workers: int = setting(1, "Loader processes per GPU.", ge=0)


class Augmentation(StrictModel):
    """Resizing, padding and random changes of the images."""

    train_min_size: list[PositiveInt] = setting(
        [448], "Choices for the short side while training, one per batch; the published recipes use 240.",
        automl=False, min_length=1, unit="pixel",
    )  # fmt: skip
    train_max_size: int = setting(768, "Limit of the long side while training.", ge=32, le=960, unit="pixel")
    train_crop_size: list[PositiveInt] = setting(
        [240, 240], "Older name of crop_size, read only while crop_size has its default.",
        automl=False, min_length=2, max_length=2, unit="pixel",
    )  # fmt: skip
    test_min_size: int = setting(240, "Short side outside training.", ge=32, le=960, unit="pixel")
    test_max_size: int = setting(960, "Limit of the long side outside training.", ge=32, le=960, unit="pixel")
    color_aug_ssd: bool = setting(False, "Random brightness, contrast, saturation and hue.")
    enable_crop: bool = setting(False, "Random crop while training.")
    crop_size: list[PositiveInt] = setting(
        [240, 240],
        "Height and width of the random crop.",
        automl=False,
        min_length=2,
        max_length=2,
        unit="pixel",
    )
    single_category_max_area: float = setting(
        1.0, "A crop is drawn again when one class covers a larger share of it.", ge=0.0, le=1.0
    )
    random_flip: Literal["", "horizontal", "vertical"] = setting(
        "", "Direction of the random flip while training; empty = no flip.", any_case=True,
        spellings={"none": "", "off": ""},
    )  # fmt: skip
    random_flip_prob: float = setting(0.5, "Probability of the random flip.", ge=0.0, le=1.0)
    size_divisibility: float = setting(
        -1, "Images are padded to a multiple of this when loaded; -1 = none, 32 in the 3D-Front recipes.",
        ge=-1, unit="pixel",
    )  # fmt: skip
    gen_aug_weight: float = setting(
        0.0, "Loss weight of generated variants of a training image; 0 = they are not read.", ge=0.0, le=1.0
    )


class Dataset(StrictModel):
    """Splits, formats and the geometry of the training targets."""

    train: TrainSplit = section(TrainSplit, "Training split.")
    val: ValSplit = section(ValSplit, "Validation split.")
    test: TestSplit = section(TestSplit, "Test split.")
    workers: int = setting(
        8,
        "Loader processes of the inference action, whose image folder is no split; splits have num_workers.",
        ge=1,
    )
    pin_memory: bool = setting(
        True, "Keep loaded batches in page-locked memory, which makes copies to the GPU faster."
    )
    augmentation: Augmentation = section(Augmentation, "Resizing, padding and augmentation.")
    contiguous_id: bool = setting(
        False, "The label map lists contiguous training ids (trainId); true for all label maps of this bank."
    )
    label_map: str | None = setting(
        None, "Label map (colormap.json); empty = the built-in classes 0 to 12 of 3D-Front and Matterport3D."
    )
    name: Literal["front3d", "matterport", "synthetic_hospital", "synthetic_warehouse"] = setting(
        "front3d", "Dataset layout; the synthetic sets use the layout of 3D-Front.",
        any_case=True, popular=True,
        spellings={"3d-front": "front3d", "3dfront": "front3d", "matterport3d": "matterport"},
    )  # fmt: skip
    downsample_factor: int = setting(
        1,
        "Reduction of the volume before the 3D metric: 2 for Matterport3D, 1 for all other sets.",
        ge=1,
        popular=True,
    )
    iso_value: float = setting(
        1.0,
        "True voxels nearer to a surface than this count as surface; 1.0 for 3D-Front, 2.0 for Matterport3D.",
        gt=0.0,
        unit="voxel",
    )
    ignore_label: int = setting(255, "Semantic label that losses leave out.", ge=0)
    min_instance_pixels: int = setting(
        200, "Smaller instances are left out of the targets.", ge=0, unit="pixel"
    )
    img_format: Literal["RGB", "BGR"] = setting(
        "RGB", "Channel order in which colour jitter works.", any_case=True
    )
    target_size: list[PositiveInt] = setting(
        [320, 240],
        "Width and height of input images.",
        automl=False,
        min_length=2,
        max_length=2,
        unit="pixel",
    )
    reduced_target_size: list[PositiveInt] = setting(
        [160, 120], "Width and height of the image plane of the 3D stage.",
        automl=False, min_length=2, max_length=2, unit="pixel",
    )  # fmt: skip
    depth_size: list[PositiveInt] = setting(
        [120, 160],
        "Height and width of the depth plane.",
        automl=False,
        min_length=2,
        max_length=2,
        unit="pixel",
    )
    depth_bound: bool = setting(
        False,
        "Treat depth outside depth_min to depth_max as missing for 3D-Front too, as always for Matterport3D.",
    )
    depth_min: float = setting(0.4, "Near end of the frustum.", ge=0.0, unit="m")
    depth_max: float = setting(6.0, "Far end of the frustum.", gt=0.0, unit="m")
    frustum_mask_path: str | None = setting(
        "meta/frustum_mask.npz",
        "Mask of the voxels inside the camera frustum; empty = it is computed from the camera.",
    )
    occ_truncation_lvl: list[float] = setting(
        [8.0, 6.0], "Voxels nearer to a surface than this are occupied, at 64 and 128 voxels per side.",
        automl=False, min_length=2, max_length=2, unit="voxel",
    )  # fmt: skip
    truncation_range: list[float] = setting(
        [0.0, 12.0], "Range that the stored distance field is clipped to.",
        automl=False, min_length=2, max_length=2, unit="voxel",
    )  # fmt: skip
    enable_3d: bool = setting(
        False, "False = stage 1 (2D panoptic and depth), true = stage 2 (3D reconstruction).", popular=True
    )
    enable_mp_occ: bool = setting(True, "Load the target of the multi-plane occupancy loss.")
    depth_scale: float = setting(25.0, "Upper limit of predicted depth.", gt=0.0, unit="m")
    cache_dir: str | None = setting(
        None,
        "Folder for small copies of volumes and, in stage 2 without augmentation, of 2D outputs.",
    )
    num_thing_classes: int = setting(9, "Classes 1 to this number are things, the others stuff.", ge=0)
