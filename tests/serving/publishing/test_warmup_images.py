"""Warm-up bytes from a folder of images are those that the formula of the preprocessing gives."""

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2

from rtool.converters import Preprocessing
from rtool.errors import InputError
from rtool.serving import deploy


@pytest.fixture
def crops(tmp_path):
    """20 images of 4 x 8 pixels, which the models take without resizing."""
    folder = tmp_path / "crops"
    folder.mkdir()
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (20, 8, 4, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{index:02}.png")
    return folder, pixels


def warmed(result) -> bytes:
    config = text_format.Parse(result.config.read_text(), model_config_pb2.ModelConfig())
    (entry,) = config.model_warmup[0].inputs.values()
    return (result.config.parent / "warmup" / entry.input_data_file).read_bytes()


def test_float_inputs_are_normalised(tmp_path, onnx_files, crops):
    folder, pixels = crops
    stated = Preprocessing(height=8, width=4, mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0))
    result = deploy(
        onnx_files["reid"], name="m", repository=tmp_path / "r", device="cpu", warmup=folder, preprocessing=stated
    )
    expected = (pixels[:16].astype(np.float32) - np.float32([100, 110, 120])) / np.float32([50, 60, 70])
    got = np.frombuffer(warmed(result), np.float32).reshape(16, 3, 8, 4)
    np.testing.assert_array_equal(got, expected.transpose(0, 3, 1, 2))


def test_uint8_inputs_get_the_pixels(tmp_path, onnx_files, crops):
    folder, _ = crops
    stated = Preprocessing(height=6, width=6, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), layout="nhwc")
    result = deploy(
        onnx_files["face"], name="m", repository=tmp_path / "r", device="cpu", warmup=folder, preprocessing=stated
    )
    with Image.open(folder / "00.png") as image:
        expected = np.asarray(image.resize((6, 6), Image.Resampling.BILINEAR))
    got = np.frombuffer(warmed(result), np.uint8).reshape(6, 6, 3)
    assert np.abs(got.astype(int) - expected).max() == 0


@pytest.mark.parametrize("spoil", ["few", "corrupt", "unknown", "several inputs"])
def test_what_cannot_warm_up_is_refused_with_the_reason(tmp_path, onnx_files, crops, spoil):
    folder, _ = crops
    kind, said = ("types" if spoil == "several inputs" else "reid"), {"preprocessing": Preprocessing(8, 4)}
    if spoil == "few":
        for path in sorted(folder.iterdir())[10:]:
            path.unlink()
        match = r"needs 16 images, there are 10"
    elif spoil == "corrupt":
        (folder / "03.png").write_bytes((folder / "03.png").read_bytes()[:60])
        match = r"03\.png: this image cannot be read"
    elif spoil == "unknown":
        said, match = {}, r"cannot be prepared: .*--preprocessing"
    else:
        said, match = {}, r"one input, this one has half, whole, flag"
    with pytest.raises(InputError, match=match):
        deploy(onnx_files[kind], name="m", repository=tmp_path / "r", device="cpu", warmup=folder, **said)
    assert not (tmp_path / "r/m").exists()
