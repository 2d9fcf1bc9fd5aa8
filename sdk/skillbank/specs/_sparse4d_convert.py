"""Settings of the conversion of raw scenes to Sparse4D's annotation files."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from skillbank.specs.base import StrictModel, section, setting

__all__ = ["AiCity", "Formats"]

_CLASSES = ("Person", "FourierGR1T2", "AgilityDigit", "Transporter")


class ClassConfig(StrictModel):
    """Names of classes; the keys are in capitals as in the published converter."""

    CLASS_LIST: list[str] = setting(
        list(_CLASSES), "Class names that are kept, after merging.", automl=False, min_length=1
    )
    SUB_CLASS_DICT: dict[str, list[str]] = setting(
        {}, "Class name written to the annotations -> raw type names that become it.", automl=False
    )
    MAP_CLASS_NAMES: dict[str, str] = setting(
        {name: name for name in _CLASSES}, "Class name -> name shown to people.", automl=False
    )
    ATTRIBUTE_DICT: dict[str, str] = setting(
        {
            "Person": "person.moving",
            "FourierGR1T2": "fourier_gr1_t2.moving",
            "AgilityDigit": "agility_digit.moving",
            "Transporter": "transporter.moving",
        },
        "Class name -> attribute written for it.",
        automl=False,
    )
    CLASS_RANGE_DICT: dict[str, Annotated[float, Field(gt=0)]] = setting(
        dict.fromkeys(_CLASSES, 40), "Class name -> distance from the group origin within which it counts.",
        automl=False, unit="m",
    )  # fmt: skip


class AnchorInit(StrictModel):
    """Initial boxes for the queries, from clusters of object centres."""

    num_anchor: int = setting(900, "Number of boxes; equals model.head.instance_bank.num_anchor.", ge=1)
    detection_range: float = setting(
        -1, "Objects farther from the origin are left out; -1 = none are.", ge=-1, unit="m"
    )
    sample_ratio: int = setting(-1, "Use every n-th object; -1 = all.", ge=-1)
    output_file_name: str = setting(
        "anchor_init.npy", "Name of the file in the results folder.", min_length=1
    )


class AiCity(StrictModel):
    """Raw scenes of the MTMC Tracking datasets."""

    root: str | None = setting(
        None, "Folder that holds the split folders.", mandatory_for=("dataset_convert",), popular=True
    )
    version: str = setting("2025", "Edition of the dataset.", spellings={"2025": "2025", "2026": "2026"})
    split: str = setting(
        "train",
        "Splits to convert, separated by commas; any of train, val, test.",
        min_length=1,
        popular=True,
    )
    class_config: ClassConfig = section(ClassConfig, "Names of classes.")
    recentering: bool = setting(True, "Give coordinates relative to the origin of the camera group.")
    rgb_format: Literal["mp4", "jpg", "h5"] = setting("mp4", "Where colour frames come from.", any_case=True)
    depth_format: Literal["", "h5", "png"] = setting(
        "h5", "Where depth frames come from; empty = there are none.", any_case=True
    )
    camera_grouping_mode: Literal["", "random", "training,random"] = setting(
        "random",
        "How cameras are grouped: random draws groups, training takes the scene's own; empty = one group.",
        any_case=True,
        spellings={"none": "", "training, random": "training,random"},
    )
    anchor_init_config: AnchorInit = section(AnchorInit, "Initial boxes for the queries.")
    num_frames: Annotated[int, Field(ge=-1)] = setting(9000, "Frames per camera; -1 = all.", popular=True)
    load_annotations: bool = setting(True, "Read ground_truth.json; false for scenes that have none.")
    fps: float = setting(30.0, "Frame rate of the videos.", gt=0, unit="1/s")


class Formats(StrictModel):
    """What is converted to what."""

    input_format: Literal["AICITY"] = setting("AICITY", "Format of the raw scenes.", any_case=True)
    output_format: Literal["OVPKL"] = setting("OVPKL", "Format of the annotation files.", any_case=True)
