"""Finite weights with which a network's outputs overflow are refused, whichever command loads them."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rtool.converters import load_model, onnx2torch
from rtool.errors import InputError


@pytest.fixture
def files(tmp_path):
    weight = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])]
    node = helper.make_node("MatMul", ["x", "head.weight"], ["y"], name="head")
    graph = helper.make_graph([node], "g", inputs, outputs, [numpy_helper.from_array(weight, "head.weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    torch.save({"head.weight": torch.full((64, 4), 3e38)}, tmp_path / "w.pth")
    return tmp_path / "m.onnx", tmp_path / "w.pth"


def test_a_conversion_with_such_weights_writes_nothing(files, tmp_path):
    model, weights = files
    with pytest.raises(InputError, match=r"w\.pth: with its weights output 0: 4 NaN of 4 .*each is finite"):
        onnx2torch(model, tmp_path / "m.rtool", weights=weights)
    assert not (tmp_path / "m.rtool").exists()


def test_an_opened_model_refuses_them_too(files):
    model, weights = files
    with pytest.raises(InputError, match=r"w\.pth: with its weights output 0: 8 NaN of 8"):
        load_model(model, weights)
