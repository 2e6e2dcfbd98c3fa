"""Operations on one image against NumPy formulas and the standard library's colour circle."""

import colorsys

import numpy as np
import pytest

from rtool.finetune.data.augment.image_operations import OPERATIONS, apply_operation, turn_hue

FILL = np.array([7, 8, 9], dtype=np.uint8)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_operation_keeps_shape_and_type_and_its_input(image, name, channels):
    given = image[..., :channels].copy()
    changed = apply_operation(name, given, 0.25, FILL[:channels])
    assert (changed.shape, changed.dtype) == (given.shape, np.uint8)
    assert np.array_equal(given, image[..., :channels])


@pytest.mark.parametrize(
    "name", sorted(OPERATIONS.keys() - {"auto_contrast", "equalize", "posterize", "solarize"} | {"identity"})
)
def test_an_amount_of_zero_changes_nothing(image, name):
    np.testing.assert_allclose(apply_operation(name, image, 0.0, FILL).astype(int), image.astype(int), atol=1)


def test_translation_moves_by_shares_of_the_size_and_fills(image):
    moved = apply_operation("translate_x", image, 2 / 8, FILL)
    assert np.array_equal(moved[:, :-2], image[:, 2:])
    assert (moved[:, -2:] == FILL).all()
    moved = apply_operation("translate_y", image, -3 / 12, FILL)
    assert np.array_equal(moved[3:], image[:-3])
    assert (moved[:3] == FILL).all()


def test_half_a_turn_of_a_square_is_its_reversal():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    turned = apply_operation("rotate", image, 180.0, FILL)
    np.testing.assert_allclose(turned[1:-1, 1:-1].astype(int), image[::-1, ::-1][1:-1, 1:-1].astype(int), atol=1)


def test_tones_follow_their_formulas(image):
    wide = image.astype(np.float64)
    bright = apply_operation("brightness", image, -0.5, FILL)
    np.testing.assert_allclose(bright, np.clip(wide * 0.5, 0, 255), atol=1)
    assert np.array_equal(apply_operation("posterize", image, 4.0, FILL), image & 0xF0)
    solarized = apply_operation("solarize", image, 100.0, FILL)
    assert np.array_equal(solarized, np.where(image < 156, image, 255 - image))
    luma = np.rint(wide @ [0.299, 0.587, 0.114])[..., None]
    np.testing.assert_allclose(apply_operation("saturation", image, -1.0, FILL), np.repeat(luma, 3, axis=2), atol=1)
    stretched = apply_operation("auto_contrast", (image // 4 + 20).astype(np.uint8), 0.0, FILL)
    assert (stretched.min(axis=(0, 1)).tolist(), stretched.max(axis=(0, 1)).tolist()) == ([0] * 3, [255] * 3)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.25, 0.5])
def test_hue_turns_on_the_colour_circle(turn):
    pure = np.array([[[200, 40, 40], [40, 200, 40], [40, 40, 200], [180, 180, 20]]], dtype=np.uint8)
    turned = turn_hue(pure, turn)
    for given, found in zip(pure[0] / 255, turned[0] / 255, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*given)
        expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
        np.testing.assert_allclose(found, expected, atol=0.03)  # 256 hues: 1 / 256 of 6 ramps of 0.63
    grey = np.zeros((2, 2, 1), dtype=np.uint8)
    assert turn_hue(grey, 0.3) is grey
