"""An image is known by its content, wherever it is stored."""

import hashlib
import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.data.image_files import UnreadableImageError
from rtool.finetune.data.joined import join_datasets
from rtool.finetune.embedding.image_digests import DigestedImages


def encoded(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def stored_digests(images, positions):
    digested = DigestedImages(images)
    for position in positions:
        np.testing.assert_array_equal(np.asarray(digested[position]), np.asarray(images[position]))
    return digested.digests[list(positions)]


def sha256(content):
    return list(hashlib.sha256(content).digest())


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(("a/1.png", "a/2.png", "b/3.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(seed))
    return tmp_path


def test_a_file_is_known_by_its_bytes(folder):
    dataset = open_dataset(folder)
    assert stored_digests(dataset.images, [2, 0]).tolist() == [sha256(encoded(2)), sha256(encoded(0))]
    assert stored_digests(dataset.subset(np.array([1, 2])).images, [1]).tolist() == [sha256(encoded(2))]
    joined = join_datasets({"x": dataset, "y": dataset})
    assert stored_digests(joined.images, [1, 4]).tolist() == [sha256(encoded(1))] * 2


def test_a_member_of_an_archive_is_known_as_the_file_it_was(tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for seed in range(2):
            for suffix, content in (("png", encoded(seed)), ("cls", str(seed).encode())):
                entry = tarfile.TarInfo(f"{seed}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    assert stored_digests(open_dataset(tmp_path / "shard.tar").images, [1]).tolist() == [sha256(encoded(1))]


def test_a_drawn_image_is_known_by_its_pixels_and_their_shape():
    first = open_dataset("synthetic-people:identities=2,images=2,seed=1,size=16x8")
    other = open_dataset("synthetic-people:identities=2,images=2,seed=2,size=16x8")
    digests = stored_digests(first.images, range(4))
    assert len(np.unique(digests, axis=0)) == 4
    np.testing.assert_array_equal(stored_digests(first.images, range(4)), digests)
    assert not (digests == stored_digests(other.images, range(4))).all(axis=1).any()


def test_a_file_that_is_gone_is_unreadable(folder):
    dataset = open_dataset(folder)
    (folder / "a" / "1.png").unlink()
    with pytest.raises(UnreadableImageError):
        DigestedImages(dataset.images)[0]
