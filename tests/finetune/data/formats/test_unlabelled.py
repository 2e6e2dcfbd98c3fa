"""Images without labels: any folder, or a known layout without what is not to be trained on."""

import numpy as np
import pytest
from PIL import Image

from rtool.errors import DataError
from rtool.finetune.data.dataset import NOBODY
from rtool.finetune.data.formats.unlabelled import open_unlabelled


def put(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 16), (value, 0, 0)).save(path)


def test_all_images_below_a_folder_are_of_nobody(tmp_path):
    for n, name in enumerate(("a.png", "b/c.png", "b/d/e.png")):
        put(tmp_path / name, n)
    dataset = open_unlabelled(tmp_path)
    assert list(dataset.names) == ["a.png", "b/c.png", "b/d/e.png"]
    assert (dataset.identities == NOBODY).all()
    assert dataset.identity_count == 0
    assert np.asarray(dataset.images[2])[0, 0, 0] == 2


def test_of_market1501_only_the_training_images_are_used(tmp_path):
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        for person in (1, 2):
            put(tmp_path / folder / f"000{person}_c1s1_000001_0{person}.png")
    assert len(open_unlabelled(tmp_path)) == 2


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="no images in this folder"):
        open_unlabelled(tmp_path)


def test_a_generator_loses_its_labels():
    dataset = open_unlabelled("synthetic-people:identities=3,images=2,size=16x8")
    assert len(dataset) == 6
    assert (dataset.identities == NOBODY).all()
