"""simplejpeg is used where it gives Pillow's pixels, and nowhere else. Pillow is the oracle throughout."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from rtool.converters.records.preprocessing import ARCFACE, Preprocessing
from rtool.finetune.data.dataset import Dataset
from rtool.finetune.data.decoding import read_image
from rtool.finetune.data.image_files import EncodedImages, UnreadableImageError, decode_image
from rtool.finetune.data.jpeg import second_decoder
from rtool.finetune.data.jpeg.header import read_header
from rtool.finetune.data.jpeg.second_decoder import decode_plain_jpeg, decoder_note, proved_kinds

GREY = Preprocessing(16, 16, (0.0,), (1.0,), "grey")


@pytest.fixture(autouse=True)
def proof_anew():
    proved_kinds.cache_clear()
    yield
    proved_kinds.cache_clear()


def picture(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """A picture of coarse patches with noise, as photographs have both."""
    coarse = rng.integers(0, 256, (height // 7 + 2, width // 7 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    return Image.fromarray(np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options) -> bytes:
    written = io.BytesIO()
    image.save(written, "JPEG", **options)
    return written.getvalue()


def decode_pixels(encoded: bytes) -> np.ndarray:
    """By the reader, as they are."""
    data = Dataset("d", EncodedImages(1, [encoded].__getitem__), np.zeros(1, np.int64), np.full(1, -1), ("a",))
    return np.atleast_3d(read_image(data, np.asarray, 0))


def turned() -> Image.Exif:
    """An orientation of a quarter turn."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def by_pillow(encoded: bytes) -> np.ndarray:
    return np.atleast_3d(np.asarray(decode_image(io.BytesIO(encoded))))


def test_every_pixel_is_pillows():
    rng = np.random.default_rng(0)
    for number in range(120):
        height, width = rng.integers(2, 150, 2)
        image = picture(rng, height, width)
        options = {"quality": int(rng.integers(10, 99)), "progressive": bool(number % 2)}
        if number % 3 == 0:
            options["restart_marker_blocks"] = int(rng.integers(1, 9))
        files = [jpeg(image, subsampling=kind, **options) for kind in (0, 1, 2)] + [jpeg(image.convert("L"), **options)]
        for encoded in files:
            pixels = decode_plain_jpeg(encoded)
            assert pixels is not None, (height, width, options)
            np.testing.assert_array_equal(pixels, by_pillow(encoded))


@pytest.mark.parametrize(
    "encoded",
    [
        jpeg(Image.new("CMYK", (20, 20), (10, 20, 30, 40))),
        jpeg(Image.new("RGB", (20, 20), (250, 20, 30)), keep_rgb=True),
        jpeg(
            Image.new("RGB", (20, 10)), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
        ),
        jpeg(Image.new("RGB", (20, 10))).replace(b"JFIF\0", b"JFOO\0"),
        b"\x89PNG\r\n\x1a\n",
        b"",
        b"\xff\xd8",
    ],
    ids=["cmyk", "rgb", "turned", "no JFIF", "png", "nothing", "cut off"],
)
def test_what_is_not_plain_is_left_to_pillow(encoded):
    assert read_header(encoded) is None
    assert decode_plain_jpeg(encoded) is None


def test_a_turned_image_comes_out_upright():
    assert decode_pixels(jpeg(Image.new("RGB", (20, 10)), exif=turned())).shape == (20, 10, 3)


def test_a_damaged_file_is_refused_or_read_exactly_as_by_pillow():
    rng = np.random.default_rng(1)
    whole = jpeg(picture(rng, 60, 50), quality=80)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(whole)
        if rng.random() < 0.3:
            damaged = damaged[: int(rng.integers(4, len(whole)))]
        for place in rng.integers(2, len(damaged), rng.integers(1, 4)):
            damaged[place] = int(rng.integers(256))
        try:
            expected = by_pillow(bytes(damaged))
        except UnreadableImageError:
            with pytest.raises(UnreadableImageError):
                decode_pixels(bytes(damaged))
            outcomes.add("refused")
        else:
            np.testing.assert_array_equal(decode_pixels(bytes(damaged)), expected)
            outcomes.add("by pillow" if decode_plain_jpeg(bytes(damaged)) is None else "by simplejpeg")
    assert outcomes == {"refused", "by pillow", "by simplejpeg"}


def test_a_kind_with_one_wrong_pixel_is_left_to_pillow(monkeypatch):
    right = simplejpeg.decode_jpeg

    def wrong_for_4_2_0(encoded, *arguments, **options):
        pixels = right(encoded, *arguments, **options)
        if read_header(encoded).kind == (((2, 2), (1, 1), (1, 1)), False):
            pixels[0, 0, 0] ^= 1
        return pixels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", wrong_for_4_2_0)
    image = picture(np.random.default_rng(2), 30, 40)
    assert decode_plain_jpeg(jpeg(image, subsampling=2)) is None
    assert decode_plain_jpeg(jpeg(image, subsampling=0)) is not None
    assert len(proved_kinds()) == 7
    assert "decodes 7 of 8 kinds" in decoder_note(jpeg(image))


def test_without_simplejpeg_pillow_decodes(monkeypatch):
    monkeypatch.setattr(second_decoder, "_installed", lambda: False)
    encoded = jpeg(Image.new("RGB", (20, 10)))
    assert decode_plain_jpeg(encoded) is None
    assert decode_pixels(encoded).shape == (10, 20, 3)
    assert decoder_note(encoded) is None


def test_the_log_names_the_decoder_of_jpeg_files_only():
    assert decoder_note(jpeg(Image.new("RGB", (20, 10)))).startswith("JPEG: simplejpeg ")
    assert decoder_note(b"\x89PNG\r\n\x1a\n") is None


@pytest.mark.parametrize("resize", [ARCFACE.resize, GREY.resize, Preprocessing(40, 30).resize])
def test_a_model_gets_the_same_pixels_from_both(resize, monkeypatch):
    rng = np.random.default_rng(3)
    files = [jpeg(picture(rng, *size)) for size in ((112, 112), (40, 30), (16, 16))]
    files.append(jpeg(picture(rng, 112, 112).convert("L")))
    data = Dataset("d", EncodedImages(4, files.__getitem__), np.array([0, 0, 1, 1]), np.full(4, -1), tuple("abcd"))
    fast = [read_image(data, resize, index) for index in range(4)]
    monkeypatch.setattr(second_decoder, "_installed", lambda: False)
    for index, pixels in enumerate(fast):
        np.testing.assert_array_equal(pixels, read_image(data, resize, index))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_function_of_ones_own_gets_an_image(mode):
    encoded = jpeg(picture(np.random.default_rng(4), 30, 20).convert(mode))
    data = Dataset("d", EncodedImages(1, [encoded].__getitem__), np.zeros(1, np.int64), np.full(1, -1), ("a",))
    got = read_image(data, lambda image: np.asarray(image.convert("L").resize((5, 6)))[..., None], 0)
    expected = decode_image(io.BytesIO(encoded)).convert("L").resize((5, 6))
    np.testing.assert_array_equal(got[..., 0], np.asarray(expected))
