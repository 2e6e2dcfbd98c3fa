"""Small models of one corner each, and how they are run, for the tests of fp16 and bf16."""

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def model_of(nodes, inputs, outputs, weights=(), opset=17) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "corner",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(weights).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, *arrays: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    kinds = {"tensor(float16)": np.float16}
    feed = {
        spec.name: array.astype(kinds.get(spec.type, array.dtype)) for spec, array in zip(inputs, arrays, strict=True)
    }
    return session.run(None, feed)


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["cond"], ["cond_out"]),
            helper.make_node("Mul", ["state", "factor"], ["next"]),
            helper.make_node("Identity", ["next"], ["scan"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("cond", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, [2, 3]),
        ],
        [
            helper.make_tensor_value_info("cond_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, [2, 3]),
            helper.make_tensor_value_info("scan", FLOAT, [2, 3]),
        ],
    )
    nodes = [helper.make_node("Loop", ["trips", "", "x"], ["y", "steps"], body=body)]
    weights = {"trips": np.int64(3), "factor": np.float32(0.5)}
    return model_of(nodes, [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3]), ("steps", FLOAT, [3, 2, 3])], weights)


def large_weight() -> onnx.ModelProto:
    """A mask constant beyond the range of float16."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Mul", ["r", "big"], ["m"], name="big_mul"),
        helper.make_node("Mul", ["m", "small"], ["y"]),
    ]
    weights = {"big": np.float32([1e5, 2e5, 3e5]), "small": np.float32(1e-3)}
    return model_of(nodes, [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3])], weights)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def weight_types(model: onnx.ModelProto) -> set[int]:
    return {tensor.data_type for tensor in model.graph.initializer} - {TensorProto.INT64}


def exported(module: nn.Module, *shape: int) -> onnx.ModelProto:
    program = torch.onnx.export(module.eval(), (torch.randn(shape),), dynamo=True, verbose=False)
    return program.model_proto


def network() -> nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 4),
    )
