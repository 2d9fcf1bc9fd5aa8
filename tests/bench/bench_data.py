"""Loading one augmented 480 x 640 image with its segments, in one process.

The reference does the same steps the obvious way: resize image and one mask for each segment as a whole, then
crop. Both draw the same random numbers. Pairs are measured in turn.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from skillbank_models.data.augment import TrainAugment, color_jitter, short_edge_size
from skillbank_models.data.coco_panoptic import PanopticReader
from skillbank_models.data.images import read_ids, read_image
from skillbank_models.data.label_map import load_categories
from skillbank_models.data.segmentation import Collate, Normalisation, SegmentationSet
from skillbank_models.data.synthetic import Order
from skillbank_models.data.synthetic_shapes import write_shapes

IMAGES = 12
ROUNDS = 8
CROP = 640


def obvious(root: Path, found: SegmentationSet, place: int) -> np.ndarray:
    """Image and masks by whole resizing."""
    record = found.records[place]
    image = read_image(root / "images" / record.image)
    ids = read_ids(root / "images_panoptic" / record.mask)
    masks = [(ids == segment[0]).astype(np.uint8) for segment in record.segments]
    if np.random.rand() < 0.5:
        image, masks = np.ascontiguousarray(image[:, ::-1]), [mask[:, ::-1] for mask in masks]
    image = color_jitter(image)
    shortest = int(np.random.choice(found.transform.min_sizes))
    height, width = short_edge_size(image.shape[:2], shortest, 2560)
    image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    masks = [cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT) for mask in masks]
    top, left = np.random.randint(max(height - CROP, 0) + 1), np.random.randint(max(width - CROP, 0) + 1)
    return np.stack([mask[top : top + CROP, left : left + CROP] for mask in masks]) > 0


def main() -> None:
    """Medians over images and rounds."""
    ours, theirs, together = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        write_shapes(
            Order(
                folder=root, formats=["coco_panoptic"], count=IMAGES, size=(480, 640), seed=0, empty=0,
                progress=lambda done: None,
            )
        )  # fmt: skip
        classes = load_categories(root / "label_map_panoptic.json", contiguous=True, num_classes=8)
        reader = PanopticReader(
            annotations=root / "annotations_panoptic.json",
            mask_folder=root / "images_panoptic",
            categories=classes,
        )
        change = TrainAugment(
            target_size=None,
            min_sizes=[640],
            max_size=2560,
            crop_size=(CROP, CROP),
            flip_prob=0.5,
            jitter=True,
        )
        found = SegmentationSet(
            records=reader.records(), reader=reader, image_folder=root / "images", transform=change,
            task="panoptic", categories=classes, with_truth=False,
        )  # fmt: skip
        unit = Normalisation(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
        collate = Collate(normalisation=unit, fixed_size=None)
        cv2.setNumThreads(0)  # as in a loader process
        for number in range(ROUNDS * IMAGES):
            np.random.seed(number)
            start = time.perf_counter()
            sample = found[number % IMAGES]
            ours.append(time.perf_counter() - start)
            collate([sample])
            together.append(time.perf_counter() - start)
            np.random.seed(number)
            start = time.perf_counter()
            obvious(root, found, number % IMAGES)
            theirs.append(time.perf_counter() - start)
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(
        json.dumps(
            [
                {
                    "name": "load and augment one 480 x 640 image, against resizing it whole",
                    "command": "SegmentationSet[i]", "median_s": statistics.median(ours),
                    "reference_s": statistics.median(theirs), "ratio": ratio,
                },
                {
                    "name": "the same with normalising and batching",
                    "command": "SegmentationSet[i] + Collate", "median_s": statistics.median(together),
                },
            ],
            indent=2,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
