"""Augmentations: seeded per sample, never in place, and doing what their names say."""

import numpy as np
import pytest

from rtool.finetune.config.config import AugmentConfig
from rtool.finetune.data import augmentation as a
from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.data.loading import EpochSamples, TrainingPixels, iterate_batches

FILL = np.array([9, 8, 7], dtype=np.uint8)
CHANGES = [a.keep_rectangle, a.lower_resolution, a.photometric, a.scale_channels, a.blur, a.to_grey, a.erase]


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(60, 200, (24, 12, 3), dtype=np.uint8)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_change_keeps_shape_and_type_and_its_input(image, change, channels):
    image = image[..., :channels]
    before = image.copy()
    changed = change(image, FILL[:channels], a.sample_generator(0, 0, 3))
    assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
    assert (image == before).all()
    if not (channels == 1 and change is a.to_grey):
        assert (changed != before).any()
    assert (change(image, FILL[:channels], a.sample_generator(0, 0, 3)) == changed).all()


def test_erasing_paints_one_rectangle_with_the_fill_colour(image):
    changed = a.erase(image, FILL, a.sample_generator(0, 0, 1))
    erased = (changed != image).any(axis=2)
    rows, columns = np.flatnonzero(erased.any(1)), np.flatnonzero(erased.any(0))
    assert (changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == FILL).all()
    assert 0.02 * 0.5 <= erased.mean() <= 0.4 * 1.2


def test_erasing_reaches_every_row_and_column(image):
    erased = np.zeros(image.shape[:2], dtype=bool)
    for position in range(300):
        erased |= (a.erase(image, FILL, a.sample_generator(0, 0, position)) != image).any(axis=2)
    assert erased.all()


def test_pad_crop_is_a_shift_with_the_fill_colour_outside(image):
    for position in range(20):
        changed = a.pad_crop(image, 4, FILL, a.sample_generator(0, 0, position))
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
        padded[:4], padded[-4:], padded[:, :4], padded[:, -4:] = FILL, FILL, FILL, FILL
        assert any((changed == padded[top : top + 24, left : left + 12]).all() for top in range(9) for left in range(9))


def test_grey_has_the_luma_in_every_channel(image):
    changed = a.to_grey(image, FILL, a.sample_generator(0, 0, 0)).astype(float)
    expected = image @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(changed, np.repeat(expected[..., None], 3, 2), atol=0.51)


def batches(workers=0, first=0, columns=slice(None), epoch=0, values=None):
    dataset = open_dataset("synthetic-faces:identities=6,images=4,size=16x16")
    pixels = TrainingPixels(dataset, np.asarray, values)
    config = AugmentConfig(flip=0.5, pad_crop=2, erasing=0.5, photometric=0.5, blur=0.5)
    samples = EpochSamples(pixels, config, (0.0, 0.0, 0.0), 7, epoch)
    plan = np.random.default_rng(0).permutation(24).reshape(3, 8)
    return [batch.pixels.numpy() for batch in iterate_batches(samples, plan, columns, workers, first=first)]


def test_a_sample_is_changed_alike_whoever_makes_it_and_wherever_a_run_resumes():
    whole = batches()
    halves = [batches(columns=slice(0, 4)), batches(columns=slice(4, 8))]
    for number in range(3):
        assert (np.concatenate([half[number] for half in halves]) == whole[number]).all()
    assert (batches(first=2)[0] == whole[2]).all()
    assert all((one == other).all() for one, other in zip(batches(workers=2), whole, strict=True))
    assert (batches(epoch=1)[0] != whole[0]).any()
