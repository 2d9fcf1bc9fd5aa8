"""Pictures without annotations: kinds of files, and where their cameras come from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from front3d_files import save_npz
from PIL import Image
from scene_cases import tiny_spec

from skillbank.errors import DataError, InvalidValueError, MissingFilesError, SkillBankError
from skillbank_models.nvpanoptix3d.batch import SceneBatch
from skillbank_models.nvpanoptix3d.camera import FRONT3D_CAMERA
from skillbank_models.nvpanoptix3d.data import NVPanoptix3DData
from skillbank_models.nvpanoptix3d.frustum import frustum_mask

MATRIX = np.array([[300.0, 0, 100], [0, 310, 70], [0, 0, 1]])


def save(path: Path, size: tuple[int, int] = (200, 150), mode: str = "RGB", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    ramp = (np.arange(width) * 255 // width)[None].repeat(height, 0).astype(np.uint8)
    image = Image.fromarray(ramp)
    if mode == "I;16":
        image = Image.fromarray(ramp.astype(np.uint16) * 257)
    elif mode != "L":
        image = image.convert(mode)
    image.save(path, **options)
    return path


def spec_of(folder: Path, **dotted: Any) -> Any:
    return tiny_spec("inference", inference__images_dir=str(folder), inference__checkpoint="x.pth", **dotted)


def batches(spec: Any) -> list[SceneBatch]:
    data = NVPanoptix3DData(spec)
    data.setup("predict")
    loader = data.predict_dataloader()
    return [loader.collate_fn([loader.dataset[place]]) for place in range(len(loader.dataset))]


def refused(spec: Any) -> SkillBankError:
    with pytest.raises(SkillBankError) as caught:
        batches(spec)
    return caught.value


def test_pictures_of_every_kind_become_batches(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", mode="RGBA")
    save(tmp_path / "c.png", mode="L")
    save(tmp_path / "d.png", mode="I;16")
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "e.jpg", size=(300, 200), exif=exif)
    save(tmp_path / "in" / "f.jpg", size=(90, 400))
    (tmp_path / "notes.txt").write_text("no picture")
    found = batches(spec_of(tmp_path))
    assert [batch.image_ids[0] for batch in found] == [
        "a.png",
        "b.png",
        "c.png",
        "d.png",
        "e.jpg",
        "in/f.jpg",
    ]
    for batch in found:
        assert batch.images.shape == (1, 3, 128, 160)  # all come to 160 x 120
        assert batch.sizes == [(120, 160)]
        assert batch.targets == batch.truths == batch.volumes == []
        assert batch.depths is batch.planes is batch.room_masks is None
        assert batch.images[0, :, :120].max() > 240
    assert found[4].original_sizes == [(300, 200)]  # turned upright
    assert found[5].original_sizes == [(400, 90)]
    assert torch.equal(found[0].images, found[2].images)
    assert torch.equal(found[0].images, found[3].images)


def test_the_loader_reads_the_folder(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png")
    data = NVPanoptix3DData(spec_of(tmp_path, inference__batch_size=2))
    data.setup("predict")
    assert [len(batch.images) for batch in data.predict_dataloader()] == [2, 1]


def test_a_camera_that_is_not_known_has_a_stand_in(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    for source in ("camera_head", ""):
        (batch,) = batches(spec_of(tmp_path, inference__intrinsics=source, dataset__enable_3d=True))
        assert batch.cameras_known == (False,)
        assert batch.frusta is None
        assert batch.views[0].camera == FRONT3D_CAMERA.scaled(200, 150).scaled(160, 120)


def test_the_camera_of_the_data_set(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (batch,) = batches(spec_of(tmp_path, inference__intrinsics="dataset", dataset__enable_3d=True))
    assert batch.cameras_known == (True,)
    assert batch.frusta is not None
    assert torch.equal(batch.frusta[0], frustum_mask(batch.views[0], "cpu"))
    mask = np.zeros((256, 256, 256), bool)
    mask[10, 20, 30] = True
    save_npz(tmp_path / "mask.npz", mask=mask)
    (batch,) = batches(
        spec_of(
            tmp_path, inference__intrinsics="dataset", dataset__enable_3d=True,
            dataset__frustum_mask_path=str(tmp_path / "mask.npz"),
        )
    )  # fmt: skip
    assert batch.frusta is not None
    assert batch.frusta[0].nonzero().tolist() == [[(255 - 10) // 4, (255 - 20) // 4, 30 // 4]]


def test_one_matrix_for_all_pictures(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    np.save(tmp_path / "k.npy", MATRIX)
    for batch in batches(
        spec_of(tmp_path, inference__intrinsics=str(tmp_path / "k.npy"), dataset__enable_3d=True)
    ):
        camera = batch.views[0].camera
        assert (camera.fx, camera.fy) == pytest.approx((300 * 160 / 200, 310 * 120 / 150))
        assert (camera.cx, camera.cy) == pytest.approx((100 * 159 / 199, 70 * 119 / 149))
        assert batch.cameras_known == (True,)
        assert batch.frusta is not None


def test_matrices_in_a_folder_or_beside_the_pictures(tmp_path: Path) -> None:
    pictures, matrices = tmp_path / "pictures", tmp_path / "matrices"
    save(pictures / "a.png")
    save(pictures / "in" / "b.jpg")
    matrices.mkdir()
    np.save(matrices / "a.npy", MATRIX)
    np.savetxt(matrices / "b.txt", MATRIX)
    found = batches(spec_of(pictures, inference__intrinsics=str(matrices)))
    assert [batch.views[0].camera.fx for batch in found] == pytest.approx([240.0, 240.0])
    np.save(pictures / "a.npy", MATRIX)  # beside one of them: the other is left to the network
    found = batches(spec_of(pictures))
    assert [batch.cameras_known for batch in found] == [(True,), (False,)]


def test_pictures_without_a_matrix_are_told(tmp_path: Path) -> None:
    pictures, matrices = tmp_path / "pictures", tmp_path / "matrices"
    matrices.mkdir()
    for name in "abc":
        save(pictures / f"{name}.png")
    np.save(matrices / "a.npy", MATRIX)
    refusal = refused(spec_of(pictures, inference__intrinsics=str(matrices)))
    assert isinstance(refusal, MissingFilesError)
    assert "inference.intrinsics: 2 of 3 pictures have no camera matrix" in str(refusal)
    assert "b.png, c.png" in str(refusal)


def test_wrong_sources_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    refusal = refused(spec_of(tmp_path, inference__intrinsics="camera"))
    assert isinstance(refusal, MissingFilesError)
    assert "inference.intrinsics: camera is no file and no folder; allowed are camera_head, dataset" in str(
        refusal
    )
    refusal = refused(
        spec_of(
            tmp_path,
            inference__intrinsics="dataset",
            dataset__name="matterport",
            dataset__downsample_factor=2,
        )
    )
    assert isinstance(refusal, InvalidValueError)
    assert refusal.hint == "inference.intrinsics=camera_head"


def test_all_wrong_cameras_are_told_before_the_run(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("1 2 3")
    np.save(tmp_path / "b.npy", [[90.0, 0, 100], [0, 90, 75], [0, 0, 1]])
    refusal = refused(spec_of(tmp_path, dataset__enable_3d=True))
    assert "2 problems" in str(refusal)
    assert "a.txt: camera matrix" in str(refusal)
    assert "b.png: camera: up to 6 m it sees" in str(refusal)


def test_pictures_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MissingFilesError, match=r"inference\.images_dir: no image in"):
        batches(spec_of(tmp_path))
    (tmp_path / "a.png").write_bytes(b"text")
    refusal = refused(spec_of(tmp_path))
    assert "a.png: this image cannot be read" in str(refusal)
    content = save(tmp_path / "a.png", size=(400, 300)).read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])  # its header is whole
    refusal = refused(spec_of(tmp_path))
    assert isinstance(refusal, DataError)
    assert "a.png: this image cannot be read, the file is damaged" in str(refusal)
