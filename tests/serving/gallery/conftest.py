"""A model for galleries that takes no time: mean colours of a grid of cells."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

PEOPLE = "synthetic-people:identities=6,images=8,seed=2,cameras=0,views=4,size=64x32"


@pytest.fixture(scope="session")
def colours(tmp_path_factory) -> Path:
    """An ONNX file: images [N, 3, 64, 32] to the mean colour of 8 x 4 cells, [N, 96]; pixels are normalised inside."""
    nodes = [
        helper.make_node("AveragePool", ["images"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["cells"], ["flat"]),
        helper.make_node("Add", ["flat", "bias"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 64, 32])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 96])],
        [numpy_helper.from_array(np.full(96, 0.1, np.float32), "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path_factory.mktemp("model") / "colours.onnx"
    onnx.save(model, path)
    return path
