"""`data.decode: reduced`: the pixels are libjpeg's at that scale, the run says so, and it is refused where idle."""

import io

import numpy as np
import pytest
from PIL import Image

from rtool.errors import ConfigError
from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.data.image_files import decode_image, reduced_by
from rtool.finetune.data.reduced_scale import with_reduced_images


def folder(tmp_path, size, suffix="jpg"):
    rng = np.random.default_rng(0)
    for k in range(6):
        path = tmp_path / f"p{k % 2}" / f"{k}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("size", "scale"),
    [((64, 128), 1), ((127, 255), 1), ((128, 256), 2), ((300, 512), 4), ((64, 1024), 1), ((512, 1024), 8)],
)
def test_the_scale_is_the_smallest_that_has_enough_pixels(size, scale):
    """Width and height of the file, for a network of 128 x 64."""
    written = io.BytesIO()
    Image.new("RGB", size).save(written, "JPEG")
    assert reduced_by(written.getvalue(), (128, 64)) == scale
    written.seek(0)
    assert decode_image(written, at_least=(128, 64)).size == (-(-size[0] // scale), -(-size[1] // scale))


def test_a_reduced_block_is_the_mean_of_its_pixels(tmp_path):
    """At 1/8 libjpeg keeps the constant of each block of 8 x 8: the mean, by the cosine transform's definition."""
    levels = np.random.default_rng(1).integers(20, 236, (16, 16), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(np.kron(levels, np.ones((8, 8), np.uint8))).save(written, "JPEG", quality=100)
    written.seek(0)
    np.testing.assert_allclose(np.asarray(decode_image(written, at_least=(16, 16))), levels, atol=1)


def test_an_image_on_its_side_is_reduced_for_its_upright_size():
    exif = Image.Exif()
    exif[0x0112] = 6
    written = io.BytesIO()
    Image.new("RGB", (256, 128)).save(written, "JPEG", exif=exif)
    assert reduced_by(written.getvalue(), (128, 64)) == 2
    assert reduced_by(written.getvalue(), (64, 128)) == 1


def test_a_data_set_says_how_many_are_reduced(tmp_path):
    data = with_reduced_images(folder(tmp_path, (128, 256)), 128, 64)
    assert data.images[0].size == (64, 128)
    assert data.notes[-1].endswith("of 6 looked at 6 at 1/2")
    assert data.subset(np.array([1, 2])).images[0].size == (64, 128)


@pytest.mark.parametrize(("size", "suffix"), [((64, 128), "jpg"), ((256, 512), "png")])
def test_it_is_refused_where_it_does_nothing(tmp_path, size, suffix):
    with pytest.raises(ConfigError, match=r"data\.decode: reduced does nothing: of 6 images .* twice .* 128x64"):
        with_reduced_images(folder(tmp_path, size, suffix), 128, 64)


def test_drawn_people_cannot_be_reduced():
    people = open_dataset("synthetic-people:identities=2,images=4,size=256x128")
    with pytest.raises(ConfigError, match="none is a JPEG file"):
        with_reduced_images(people, 128, 64)
