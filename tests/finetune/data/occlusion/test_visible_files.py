"""`data.visible`: masks in files are found by name, follow their images, and are refused where they cannot be right."""

import numpy as np
import pytest
from PIL import Image

from rtool.errors import DataError, InputError
from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.data.occlusion.visible_files import open_visible_files, without_masks


@pytest.fixture
def faces(tmp_path):
    """Two people of two images, 12 x 10 pixels."""
    rng = np.random.default_rng(0)
    for person in ("ann", "bob"):
        (tmp_path / "faces" / person).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "faces" / person / f"{person[0]}{number}.png")
    return tmp_path / "faces"


def mask(path, rows, shape=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(shape, 255, dtype=np.uint8)
    pixels[rows:] = 0
    Image.fromarray(pixels).save(path)


def test_masks_are_found_in_sub_folders_and_by_name_alone(faces, tmp_path):
    masks = tmp_path / "masks"
    mask(masks / "ann" / "a1_mask.png", 6)
    mask(masks / "b0_mask.png", 3)
    files = open_visible_files(masks, open_dataset(faces))
    assert [path and path.name for path in files.paths] == [None, "a1_mask.png", "b0_mask.png", None]
    assert files.read(1, 12, 10).mean(axis=1).tolist() == [255] * 6 + [0] * 6
    assert (files.read(0, 12, 10) == 255).all()
    assert files.read(2, 24, 10).mean(axis=1).tolist()[:5] == [255] * 5
    assert str(files).startswith("2 of 4 images have a mask")


def test_masks_beside_their_images_are_not_trained_on(faces):
    mask(faces / "ann" / "a0_mask.png", 6)
    mask(faces / "bob" / "odd_mask.png", 6)
    dataset = without_masks(open_dataset(faces))
    assert list(dataset.names) == ["ann/a0.png", "ann/a1.png", "bob/b0.png", "bob/b1.png", "bob/odd_mask.png"]
    assert "1 masks of data.visible left out" in dataset.notes[-1]
    assert open_visible_files(faces, dataset).paths[0] is not None


def test_what_cannot_be_right_is_refused(faces, tmp_path):
    dataset = open_dataset(faces)
    with pytest.raises(InputError, match="no such folder"):
        open_visible_files(tmp_path / "nothing", dataset)
    masks = tmp_path / "masks"
    mask(masks / "z_mask.png", 6)
    with pytest.raises(
        DataError, match=r"1 files named \*_mask\.png\); the mask of ann/a0\.png would be .*a0_mask\.png"
    ):
        open_visible_files(masks, dataset)
    mask(masks / "a0_mask.png", 6, shape=(12, 20))
    with pytest.raises(DataError, match="12 x 20 pixels"):
        open_visible_files(masks, dataset)
    (masks / "a0_mask.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a0_mask\.png cannot be read"):
        open_visible_files(masks, dataset)


def test_a_mask_of_two_images_of_one_name_is_refused(faces, tmp_path):
    (faces / "bob" / "b0.png").rename(faces / "bob" / "a0.png")
    masks = tmp_path / "masks"
    mask(masks / "a0_mask.png", 6)
    with pytest.raises(DataError, match="2 images named a0; put masks into sub-folders"):
        open_visible_files(masks, open_dataset(faces))
    (masks / "a0_mask.png").rename(masks / "a1_mask.png")
    mask(masks / "bob" / "a0_mask.png", 6)
    assert [path is not None for path in open_visible_files(masks, open_dataset(faces)).paths] == [
        False,
        True,
        True,
        False,
    ]
