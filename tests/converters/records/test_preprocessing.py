"""Preprocessing compared with its written-out arithmetic, and the values it refuses."""

import numpy as np
import pytest
from PIL import Image

from rtool.converters import IMAGENET, Preprocessing
from rtool.errors import InputError


def test_normalising_is_subtract_mean_divide_std_per_channel():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 3, 3), dtype=np.uint8)
    made = Preprocessing(4, 3, mean=(10, 20, 30), std=(2, 4, 8)).normalise(pixels)
    expected = (pixels.astype(np.float32) - [10, 20, 30]) / [2, 4, 8]
    np.testing.assert_allclose(made, expected.transpose(0, 3, 1, 2), rtol=1e-6)
    assert made.dtype == np.float32
    assert made.flags.c_contiguous


def test_bgr_swaps_channels_before_its_statistics_apply():
    pixels = np.array([[[[1, 2, 3]]]], dtype=np.uint8)
    made = Preprocessing(1, 1, mean=(0, 0, 1), std=(1, 1, 1), channel_order="bgr").normalise(pixels)
    assert made.ravel().tolist() == [3, 2, 0]


def test_layout_nhwc_keeps_channels_last():
    made = Preprocessing(2, 5, layout="nhwc")([Image.new("RGB", (7, 9))])
    assert made.shape == (1, 2, 5, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_any_image_mode_becomes_what_the_network_sees(mode):
    image = Image.new(mode, (30, 60))
    assert Preprocessing(8, 4)([image]).shape == (1, 3, 8, 4)
    assert Preprocessing(8, 4, (0.0,), (1.0,), "grey")([image]).shape == (1, 1, 8, 4)


def test_plain_data_round_trips():
    assert Preprocessing.from_dict(IMAGENET.to_dict()) == IMAGENET


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "positive"),
        ({"height": 32.5}, "whole numbers"),
        ({"width": True}, "whole numbers"),
        ({"mean": [True, 1, 1]}, "expected numbers"),
        ({"std": ["1", "1", "1"]}, "expected numbers"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be positive"),
        ({"mean": (1.0,)}, "3 numbers"),
        ({"interpolation": "lanczos"}, "unknown interpolation"),
        ({"sharpen": 1}, "sharpen"),
    ],
)
def test_values_that_make_no_sense_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        Preprocessing.from_dict({**IMAGENET.to_dict(), **change})


@pytest.mark.parametrize("order", ["rgb", "grey"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path, order):
    ramp = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    Image.fromarray(ramp.astype(np.int32)).save(tmp_path / "ramp.tif")
    size = {"mean": (0.0,), "std": (1.0,)} if order == "grey" else {}
    preprocessing = Preprocessing(16, 16, channel_order=order, **size)
    for name in ("ramp.png", "ramp.tif"):
        pixels = preprocessing.resize(Image.open(tmp_path / name))
        assert (pixels == np.arange(256).reshape(16, 16, 1)).all(), name


@pytest.mark.parametrize("values", [np.full((4, 4), 0.5, np.float32), np.full((4, 4), 70_000), np.full((4, 4), -1)])
def test_pixels_whose_range_is_unknown_are_refused(values):
    image = Image.fromarray(values.astype(np.float32 if values.dtype == np.float32 else np.int32))
    with pytest.raises(InputError, match="8 or 16 bits"):
        Preprocessing(4, 4).resize(image)
