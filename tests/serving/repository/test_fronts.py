"""Whether a packer fits the model that it calls."""

from pathlib import Path

import pytest

from rtool.serving.repository.fronts import misfits
from rtool.serving.repository.model_config import parse_config

PACKER = """name: "pack" backend: "python" max_batch_size: 16
input [ { name: "images" data_type: TYPE_FP32 dims: [%s] } ]
output [ { name: "embedding" data_type: TYPE_FP32 dims: [%s] } ]
parameters [ { key: "TARGET_MODEL" value { string_value: "m" } } ]"""
TARGET = """name: "m" backend: "onnxruntime" max_batch_size: %s
input [ { name: "images" data_type: TYPE_FP32 dims: [%s] } ]
output [ { name: "embedding" data_type: TYPE_FP32 dims: [%s] } ]"""


@pytest.mark.parametrize(
    ("most", "images", "embedding", "said"),
    [
        ("0", "16, 3, 8, 4", "16, 8", []),
        ("0", "-1, 3, 8, 4", "-1, 8", []),
        ("0", "-1, 3, -1, -1", "-1, -1", []),
        ("16", "3, 8, 4", "8", []),
        ("64", "3, -1, -1", "8", []),
        ("0", "8, 3, 8, 4", "8, 8", ["input 'images'", "output 'embedding'"]),
        ("8", "3, 8, 4", "8", ["input 'images'", "output 'embedding'"]),
        ("0", "3, 8, 4", "8", ["input 'images'", "output 'embedding'"]),
        ("16", "3, 8, 5", "8", ["input 'images'"]),
        ("16", "3, -1", "8", ["input 'images'"]),
    ],
)
def test_open_dims_fit_what_the_packer_sends_and_others_must_be_equal(most, images, embedding, said):
    found = misfits(packer("3, 8, 4", "8"), target(most, images, embedding))
    assert [line.partition(":")[0] for line in found] == said


def test_open_dims_of_a_packer_need_open_ones_of_its_target_for_what_comes_in():
    open_packer = packer("3, -1, -1", "-1")
    assert misfits(open_packer, target("0", "16, 3, -1, -1", "16, 8")) == []
    (said,) = misfits(open_packer, target("0", "16, 3, 8, 4", "16, 8"))
    assert (
        "input 'images': the packer needs TYPE_FP32 [16, 3, -1, -1] of 'm', which has TYPE_FP32 [16, 3, 8, 4]" in said
    )


def packer(images: str, embedding: str) -> object:
    return parse_config(PACKER % (images, embedding), Path("pack"))


def target(most: str, images: str, embedding: str) -> object:
    return parse_config(TARGET % (most, images, embedding), Path("m"))
