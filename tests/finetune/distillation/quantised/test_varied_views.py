"""Views to train an int8 network on: what is given, mirrored, and changed copies that equal seeds repeat."""

import numpy as np
import pytest

from rtool.converters.records.preprocessing import Preprocessing
from rtool.finetune.distillation.quantised.varied_views import varied_views

SIZE = Preprocessing(40, 20)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 40, 20, 3), dtype=np.uint8)


def test_the_images_and_their_mirror_images_come_first_and_copies_differ(pixels):
    views = varied_views(pixels, SIZE, copies=2, seed=1)
    assert (views.shape, views.dtype) == ((12, 3, 40, 20), np.float32)
    np.testing.assert_array_equal(views[:3], SIZE.normalise(pixels))
    np.testing.assert_array_equal(views[3:6], SIZE.normalise(pixels)[..., ::-1])
    distances = [np.abs(one - other).mean() for n, one in enumerate(views) for other in views[:n]]
    assert min(distances) > 0.05


def test_equal_seeds_give_equal_copies_and_none_is_allowed(pixels):
    first = varied_views(pixels, SIZE, copies=2, seed=1)
    np.testing.assert_array_equal(first, varied_views(pixels, SIZE, copies=2, seed=1))
    assert not np.array_equal(first, varied_views(pixels, SIZE, copies=2, seed=2))
    assert len(varied_views(pixels, SIZE, copies=0)) == 6


def test_grey_images_are_changed_too():
    grey = Preprocessing(16, 8, mean=(0.0,), std=(1.0,), channel_order="grey")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 8, 1), dtype=np.uint8)
    views = varied_views(pixels, grey, copies=1)
    assert views.shape == (6, 1, 16, 8)
    assert views.min() >= 0
    assert views.max() <= 255
