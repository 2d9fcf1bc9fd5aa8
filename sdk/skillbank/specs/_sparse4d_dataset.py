"""Dataset settings of Sparse4D."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from skillbank.specs._sparse4d_cotrain import CotrainData
from skillbank.specs.base import StrictModel, section, setting
from skillbank.specs.common import PositiveInt, QuantCalibration

__all__ = ["Dataset"]


class TrainSplit(StrictModel):
    """Converted scenes to learn from."""

    ann_file: str | None = setting(
        None, "Annotation pickle, folder of pickles, or text file that lists pickles.",
        mandatory_for=("train",),
    )  # fmt: skip
    test_mode: bool = setting(False, "Deliver no annotations and resize without randomness.")
    use_valid_flag: bool = setting(True, "Keep only objects that are flagged as valid.")
    with_seq_flag: bool = setting(True, "Number the sequences, which the streaming sampler needs.")
    sequences_split_num: int = setting(
        100, "Chunks per scene; a value other than 100 overrules dataset.sequences.split_num.", ge=1
    )
    keep_consistent_seq_aug: bool = setting(
        True, "One augmentation per chunk; false overrules dataset.sequences.keep_consistent_aug."
    )
    same_scene_in_batch: bool = setting(
        True, "All places of a batch stream from one scene; false overrules dataset.sequences."
    )


class ValSplit(StrictModel):
    """Converted scenes to validate on while training."""

    ann_file: str | None = setting(
        None,
        "Annotation pickle, folder of pickles, or text file that lists pickles.",
        mandatory_for=("train",),
    )
    test_mode: bool = setting(
        False, "Resize without randomness; validation always does, and always keeps its annotations."
    )
    use_valid_flag: bool = setting(True, "Keep only objects that are flagged as valid.")
    tracking: bool = setting(True, "Give results track ids, and measure tracking when it is asked for.")
    tracking_threshold: float = setting(0.2, "Lowest class score of a tracked result.", ge=0, le=1)
    same_scene_in_batch: bool = setting(True, "All places of a batch stream from one scene.")


class TestSplit(StrictModel):
    """Converted scenes that evaluate and inference work on."""

    ann_file: str | None = setting(
        None, "Annotation pickle, folder of pickles, or text file that lists pickles.",
        mandatory_for=("evaluate", "inference"),
    )  # fmt: skip
    test_mode: bool = setting(
        True, "Deliver no annotations to the network; evaluate reads them from the file all the same."
    )
    use_valid_flag: bool = setting(True, "Keep only objects that are flagged as valid.")
    tracking: bool = setting(True, "Give results track ids, and measure tracking when it is asked for.")
    tracking_threshold: float = setting(0.2, "Lowest class score of a tracked result.", ge=0, le=1)
    same_scene_in_batch: bool = setting(True, "All places of a batch stream from one scene.")


class Augmentation(StrictModel):
    """Image and world augmentation."""

    resize_lim: list[float] = setting(
        [0.7, 0.77], "Range of the random resize factor.", automl=False, min_length=2, max_length=2
    )
    final_dim: list[PositiveInt] = setting(
        [512, 1408], "Height and width of the images the network sees.",
        automl=False, min_length=2, max_length=2, unit="pixel", popular=True,
    )  # fmt: skip
    bot_pct_lim: list[float] = setting(
        [0.0, 0.0], "Range of the share cut off at the bottom.", automl=False, min_length=2, max_length=2
    )
    rot_lim: list[float] = setting(
        [-5.4, 5.4], "Range of the random rotation in the image plane.",
        automl=False, min_length=2, max_length=2, unit="deg",
    )  # fmt: skip
    image_size: list[PositiveInt] = setting(
        [1080, 1920],
        "Height and width of the source frames.",
        automl=False,
        min_length=2,
        max_length=2,
        unit="pixel",
    )
    rand_flip: bool = setting(True, "Mirror images left to right with probability 0.5.")
    rot3d_range: list[float] = setting(
        [-0.3925, 0.3925], "Range of the random rotation of the world about its vertical axis.",
        automl=False, min_length=2, max_length=2, unit="rad",
    )  # fmt: skip


class Normalize(StrictModel):
    """Normalisation of pixel values."""

    mean: list[float] = setting(
        [123.675, 116.28, 103.53],
        "Mean of each channel, on the scale 0 to 255.",
        automl=False,
        min_length=3,
        max_length=3,
    )
    std: list[Annotated[float, Field(gt=0)]] = setting(
        [58.395, 57.12, 57.375], "Deviation of each channel, on the scale 0 to 255.",
        automl=False, min_length=3, max_length=3,
    )  # fmt: skip
    to_rgb: bool = setting(True, "Give the network RGB; false gives it BGR.")


class Sequences(StrictModel):
    """How scenes are cut into chunks that are streamed frame by frame."""

    split_num: int = setting(100, "Chunks per scene.", ge=1)
    keep_consistent_aug: bool = setting(True, "Draw one augmentation per chunk instead of one per frame.")
    same_scene_in_batch: bool = setting(True, "All places of a batch stream from one scene.")


class Dataset(CotrainData):
    """Converted scenes and how they are streamed."""

    type: Literal["omniverse_3d_det_track"] = setting(
        "omniverse_3d_det_track", "Kind of dataset.", any_case=True,
        spellings={"Omniverse3DDetTrackDataset": "omniverse_3d_det_track"},
    )  # fmt: skip
    batch_size: int = setting(2, "Camera groups per GPU and step.", ge=1, popular=True)
    use_h5_file_for_rgb: bool = setting(False, "Read colour frames from HDF5 instead of image files.")
    use_h5_file_for_depth: bool = setting(True, "Read depth frames from HDF5 instead of image files.")
    num_frames: int = setting(
        200, "Frames per camera in the training scenes; with num_bev_groups it sets the length of an epoch.",
        ge=1, popular=True,
    )  # fmt: skip
    num_bev_groups: int = setting(
        1,
        "Camera groups in the training set; with num_frames it sets the length of an epoch.",
        ge=1,
        popular=True,
    )
    data_root: str | None = setting(
        None, "Folder that image and depth paths of the annotations start from.",
        mandatory_for=("train", "evaluate", "inference"), popular=True,
    )  # fmt: skip
    anno_root: str | None = setting(
        None,
        "Folder that relative annotation paths (ann_file) start from; empty = they are used as they are.",
    )
    classes: list[str] = setting(
        ["person", "humanoid", "nova_carter", "transporter", "forklift", "box", "pallet", "crate"],
        "Class names in order; the position is the label.", automl=False, min_length=1, popular=True,
    )  # fmt: skip
    num_workers: int = setting(4, "Loader processes per GPU.", ge=0)
    num_ids: int = setting(
        70, "Identities of the re-identification branch; above the largest identity.", ge=1
    )
    augmentation: Augmentation = section(Augmentation, "Image and world augmentation.")
    normalize: Normalize = section(Normalize, "Normalisation of pixel values.")
    sequences: Sequences = section(Sequences, "How scenes are cut into chunks.")
    train_dataset: TrainSplit = section(TrainSplit, "Training split.")
    val_dataset: ValSplit = section(ValSplit, "Validation split.")
    test_dataset: TestSplit = section(TestSplit, "Test split.")
    quant_calibration_dataset: QuantCalibration = section(QuantCalibration, "Data for static quantisation.")
    lazy_load: bool = setting(
        False, "Open annotation pickles when a frame is needed instead of all at the start."
    )
    lazy_load_cache_size: int = setting(50, "Annotation pickles kept open when they are loaded lazily.", ge=1)
    pkl_sample_size: int = setting(0, "Annotation pickles drawn for each epoch; 0 = all.", ge=0)
    pkl_cam_counts_path: str | None = setting(
        None, "File with the number of cameras of each pickle, for a balanced draw; empty = an even draw."
    )
    fps_drop_prob: float = setting(
        0.0, "Probability of playing a training scene at a lower frame rate; 0 = never.", ge=0, le=1
    )
    target_fps_choices: list[PositiveInt] = setting(
        [30, 20, 15, 10, 6, 5, 3, 2, 1], "Frame rates to choose from when fps_drop_prob strikes.",
        automl=False, min_length=1, unit="1/s",
    )  # fmt: skip
    max_cameras: int = setting(
        -1, "Training uses a random choice of at most this many cameras of a group; -1 = all.", ge=-1
    )
    eval_dist_fcn: Literal["center_distance", "iou_3d", "both"] = setting(
        "center_distance", "How detections are matched with objects when they are measured.", any_case=True
    )
    eval_hota: bool = setting(False, "Measure HOTA as well whenever tracking is measured.")
