"""Small graphs with a batch in them, and how they are run, for the tests of `set_batch`."""

import io
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": images}
    )[0]


def mixing_images() -> onnx.ModelProto:
    """Subtracts the batch's mean: an image's output depends on its neighbours."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph(nodes, "mixing", shape[:1], shape[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tokens(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 5, 8)).astype(np.float32)


def exported_tokens(module: nn.Module, batch: int, kind: str) -> onnx.ModelProto:
    file, example = io.BytesIO(), torch.randn(batch, 5, 8)
    names = {"input_names": ["x"], "output_names": ["y"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "ts":
            torch.onnx.export(module.eval(), example, file, dynamo=False, opset_version=17, **names)
        else:
            torch.onnx.export(module.eval(), (example,), file, dynamo=True, opset_version=20, verbose=False, **names)
    return onnx.load_from_string(file.getvalue())


def rows_of(nodes, weights, output) -> onnx.ModelProto:
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [4, 3, 8]), ("y", output))
    ]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "rows", shapes[:1], shapes[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
