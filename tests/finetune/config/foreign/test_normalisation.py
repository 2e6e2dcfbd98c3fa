"""Mean and deviation of other trainers: the preprocessing that is made of them computes what they computed."""

import numpy as np
import pytest
from PIL import Image

from rtool.converters.preprocessing.requests import read_request
from rtool.errors import ConfigError
from rtool.finetune.config.config import ModelConfig
from rtool.finetune.config.foreign.fastreid import convert_fastreid
from rtool.finetune.config.foreign.normalisation import preprocessing_of
from rtool.finetune.config.foreign.torchreid import convert_torchreid


@pytest.mark.parametrize(
    ("mean", "std", "unit", "expected"),
    [
        ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], 255, "imagenet"),
        ([123.7, 116.3, 103.5], [58.4, 57.1, 57.4], 255, "imagenet"),
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 1, "imagenet"),
        ([0.485, 0.456, 0.406], [0.5, 0.5, 0.5], 1, "mean=123.675,116.28,103.53,std=127.5,127.5,127.5"),
        ([127.5], [128.0], 255, "mean=127.5,std=128"),
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], 1, "mean=127.5,127.5,127.5,std=127.5,127.5,127.5"),
        ([1, 2], [1, 1], 255, None),
        ([1, 2, 3], [1, 1, 0], 255, None),
        ([], [1, 1, 1], 255, None),
    ],
)
def test_numbers_of_either_unit_become_pixels(mean, std, unit, expected):
    assert preprocessing_of(mean, std, unit=unit) == expected
    if expected is not None:
        ModelConfig(reference="-", preprocessing=expected)


def values_of(text: str) -> tuple[list[float], list[float]]:
    request = read_request(text)
    return list(request.values["mean"]), list(request.values["std"])


def test_fast_reid_pixels_are_normalised_as_there(tmp_path):
    path = tmp_path / "x.yml"
    path.write_text("MODEL: {PIXEL_MEAN: [127.5, 127.5, 127.5], PIXEL_STD: [120, 121, 122]}\n")
    found = convert_fastreid(path)
    assert values_of(found.config.model.preprocessing) == ([127.5] * 3, [120, 121, 122])
    assert {key.key: key.fate for key in found.keys if "PIXEL" in key.key} == {
        "MODEL.PIXEL_MEAN": "converted",
        "MODEL.PIXEL_STD": "converted",
    }
    path.write_text("MODEL: {PIXEL_STD: [1, 1, 1]}\n")
    mean, std = values_of(convert_fastreid(path).config.model.preprocessing)
    np.testing.assert_allclose(mean, [123.675, 116.28, 103.53])
    assert std == [1, 1, 1]
    path.write_text("MODEL: {PIXEL_MEAN: [1, 2]}\n")
    with pytest.raises(ConfigError, match=r"'MODEL\.PIXEL_MEAN': expected one number or three"):
        convert_fastreid(path)


def test_torchreid_shares_become_pixels(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("data: {norm_mean: [0.5, 0.5, 0.5], norm_std: [0.25, 0.5, 0.5]}\n")
    found = convert_torchreid(path)
    assert values_of(found.config.model.preprocessing) == ([127.5] * 3, [63.75, 127.5, 127.5])
    image = Image.new("RGB", (1, 1), (255, 0, 51))
    mean, std = values_of(found.config.model.preprocessing)
    theirs = (np.asarray(image).reshape(3) / 255 - 0.5) / [0.25, 0.5, 0.5]
    np.testing.assert_allclose((np.asarray(image).reshape(3) - mean) / std, theirs, atol=1e-12)
