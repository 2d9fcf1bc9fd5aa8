"""Files in COCO's panoptic format, among them the golden cases of the published evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skillbank.errors import AnnotationError, MissingFilesError, SkillBankError
from skillbank_models.metrics.panoptic_quality import evaluate_folders

DATA = Path(__file__).resolve().parents[5] / "shared" / "data"
SAMPLE, GOLDEN = DATA / "coco_panoptic_sample", DATA / "golden" / "pq"
CASES = ["same", "shift", "swap", "drop", "merge"]


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the sample data is not beside the repository")
@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    expected = json.loads((GOLDEN / "expected.json").read_text())
    assert sorted(expected) == sorted(CASES)
    found = evaluate_folders(
        SAMPLE / "panoptic_examples.json",
        SAMPLE / "panoptic_examples",
        GOLDEN / f"{case}.json",
        GOLDEN / case,
    )
    assert found.images == 2
    for group, quality in {"All": found.all, "Things": found.things, "Stuff": found.stuff}.items():
        numbers = expected[case][group]
        assert quality.classes == numbers["n"]
        for name in ("pq", "sq", "rq"):
            assert getattr(quality, name) == pytest.approx(numbers[name], abs=1e-12, rel=0)
    nonzero = {category: quality for category, quality in found.per_class.items() if quality.pq}
    assert {str(category) for category in nonzero} == set(expected[case]["per_class"])
    for category, numbers in expected[case]["per_class"].items():
        for name in ("pq", "sq", "rq"):
            assert getattr(nonzero[int(category)], name) == pytest.approx(numbers[name], abs=1e-12, rel=0)


@pytest.fixture
def files(tmp_path):
    """One image of 2 x 4 pixels with a thing and stuff, and its copy as a prediction."""
    ids = np.array([[300, 300, 0, 70_000], [300, 300, 0, 70_000]])
    png = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    segments = [{"id": 300, "category_id": 4}, {"id": 70_000, "category_id": 9}]
    content = {
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 9, "name": "sky", "isthing": 0}, {"id": 4, "name": "cat", "isthing": 1}],
    }
    for side in ("truth", "found"):
        (tmp_path / side).mkdir()
        Image.fromarray(png).save(tmp_path / side / "a.png")
        (tmp_path / f"{side}.json").write_text(json.dumps(content))
    return tmp_path, content


def evaluate(folder):
    return evaluate_folders(folder / "truth.json", folder / "truth", folder / "found.json", folder / "found")


def test_a_copy_is_perfect(files):
    found = evaluate(files[0])
    assert (found.all.pq, found.things.classes, found.stuff.classes) == (1.0, 1, 1)
    assert sorted(found.per_class) == [4, 9]


def test_things_only_leaves_stuff_without_a_number(files):
    folder, content = files
    for item in content["categories"]:
        item["isthing"] = 1
    (folder / "truth.json").write_text(json.dumps(content))
    assert evaluate(folder).stuff is None


def test_bad_files_are_told_all_at_once(files):
    folder, content = files
    content["annotations"][0]["segments_info"][0]["category_id"] = 77
    content["annotations"][0]["image_id"] = 2
    (folder / "found.json").write_text(json.dumps(content))
    with pytest.raises(AnnotationError) as error:
        evaluate(folder)
    assert "no prediction for 1 of 1 images: 1" in error.value.message
    assert "image 2 has category ids 77" in error.value.message


def test_other_faults_have_their_message(files):
    folder, content = files
    (folder / "found" / "a.png").unlink()
    with pytest.raises(SkillBankError, match=r"found.a\.png"):
        evaluate(folder)
    del content["annotations"][0]["segments_info"]
    (folder / "found.json").write_text(json.dumps(content))
    with pytest.raises(
        AnnotationError, match=r"found\.json: no COCO panoptic file \(KeyError: 'segments_info'\)"
    ):
        evaluate(folder)
    (folder / "found.json").unlink()
    with pytest.raises(MissingFilesError, match=r"found\.json"):
        evaluate(folder)
