"""An option that nothing would heed is an error, not a silence, and it comes before the work."""

import numpy as np
import pytest

from rtool.converters import export
from rtool.errors import InputError

PIXELS = np.zeros((2, 16, 8, 3), np.uint8)
REFUSED = {
    "--half-io .* --fp16 or --bf16": {"keep_io_types": False},
    "--half-io .* leave it out": {"keep_io_types": False, "int8": True, "inputs": PIXELS},
    "--min-cosine .* --fp16 or --bf16 or --int8": {"min_cosine": 0.9},
    "--keep-float32 .* --fp16": {"keep_float32": ["Conv_0"]},
    "--calibration .* --int8": {"calibration": "entropy", "fp16": True},
    "--simplifier .* --format pt2": {"simplifier": "onnxsim", "format": "pt2"},
    "--simplifier .* --format torchscript": {"simplifier": "onnxslim", "format": "torchscript"},
    "--batch .* --format pt2": {"batch": 0, "format": "pt2"},
    "--int8 .* --format pt2": {"int8": True, "format": "pt2", "inputs": PIXELS},
    "leave out --embed-preprocessing": {"int8": True, "embed_preprocessing": True, "inputs": PIXELS},
    "real images": {"int8": True},
    "--fp16 and --bf16 exclude": {"fp16": True, "bf16": True},
    "unknown format 'onx'": {"format": "onx"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_options_that_do_not_go_together_are_refused_before_the_model_is_opened(message, tmp_path):
    with pytest.raises(InputError, match=message):
        export(tmp_path / "none.onnx", tmp_path / "out.onnx", **REFUSED[message])


HEEDED = [
    {"keep_io_types": False, "fp16": True},
    {"min_cosine": 0.9, "int8": True, "inputs": PIXELS},
    {"keep_float32": (), "calibration": "minmax", "simplifier": "auto"},
    {"simplifier": "auto", "format": "pt2"},
]


@pytest.mark.parametrize("options", HEEDED)
def test_options_that_go_together_are_taken(options, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        export(tmp_path / "none.onnx", tmp_path / "out.onnx", **options)
