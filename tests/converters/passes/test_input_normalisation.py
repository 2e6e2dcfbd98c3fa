"""Networks that normalise raw pixels themselves: mean and std are reported and never trained."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rtool.converters import inspect, onnx_to_torch


def mxnet_model(steps, constants):
    """`steps` are operators applied to the image before a convolution."""
    weights = [numpy_helper.from_array(np.float32(value), name) for name, value in constants.items()]
    weights.append(numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "conv0_weight"))
    nodes, value = [], "data"
    for step, name in zip(steps, constants, strict=True):
        nodes.append(helper.make_node(step, [value, name], [f"after_{name}"], name=f"_{name}"))
        value = f"after_{name}"
    nodes.append(helper.make_node("Conv", [value, "conv0_weight"], ["y"], name="conv0"))
    inputs = [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 112, 112])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 112, 112])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


CHANNELS = np.array([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("steps", "constants", "mean", "std"),
    [
        (("Sub", "Mul"), {"minusscalar0": [127.5], "mulscalar0": [0.0078125]}, [127.5] * 3, [128.0] * 3),
        (("Mul", "Add"), {"scale": [0.5], "shift": [-1.0]}, [2.0] * 3, [2.0] * 3),
        (("Sub", "Div"), {"mean": CHANNELS, "std": 2 * CHANNELS}, [1.0, 2.0, 3.0], [2.0, 4.0, 6.0]),
    ],
)
def test_the_numbers_are_read_and_stay_fixed(tmp_path, run_onnx, steps, constants, mean, std):
    proto = mxnet_model(steps, constants)
    path = tmp_path / "face.onnx"
    onnx.save(proto, path)
    found = inspect(path)
    assert f"mean {mean}, std {std}" in found.preprocessing_origin
    assert set(found.preprocessing.std) == {1.0}
    module = onnx_to_torch(proto)
    assert [name for name, _ in module.named_parameters()] == ["conv0.weight"] or len(list(module.parameters())) == 1
    x = np.random.default_rng(0).uniform(0, 255, (1, 3, 112, 112)).astype(np.float32)
    with torch.no_grad():
        assert np.allclose(module(torch.from_numpy(x)).numpy(), run_onnx(proto, x)[0], rtol=1e-5, atol=1e-4)


def test_other_arithmetic_at_the_input_is_not_mistaken_for_it(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(mxnet_model(("Mul",), {"negative": [-1.0]}), path)
    assert "guessed" in inspect(path).preprocessing_origin
