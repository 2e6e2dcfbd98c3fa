"""A simplifier's result is used when it computes the same, and rolled back with the reason when it does not."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import rtool.converters.passes.simplification as simplification
from rtool.converters import simplify
from rtool.errors import InputError


def foldable() -> onnx.ModelProto:
    """Three nodes that compute a constant, and one that uses it."""
    nodes = [
        helper.make_node("Shape", ["w"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["zeros"]),
        helper.make_node("Add", ["w", "zeros"], ["same"]),
        helper.make_node("MatMul", ["x", "same"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "foldable",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("method", ["onnxslim", "onnxsim"])
def test_constants_are_folded_and_the_numbers_stay(method):
    model = foldable()
    before = model.SerializeToString()
    result = simplify(model, method)
    assert result.rolled_back is None
    assert result.nodes_after < result.nodes_before == 4
    x = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    assert np.allclose(run(result.model, x), run(model, x), rtol=1e-6)
    assert model.SerializeToString() == before


def scaling(model: onnx.ModelProto, method: str) -> onnx.ModelProto:
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    weight = numpy_helper.to_array(broken.graph.initializer[0]) * np.float32(1.001)
    broken.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    return broken


def renaming(model: onnx.ModelProto, method: str) -> onnx.ModelProto:
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    broken.graph.input[0].name = broken.graph.node[3].input[0] = "z"
    return broken


def crashing(model: onnx.ModelProto, method: str) -> onnx.ModelProto:
    raise RuntimeError("segmentation fault, nearly")


FAULTS = {scaling: "changed the outputs", renaming: "renamed the inputs", crashing: "segmentation fault, nearly"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_simplification_is_rolled_back_with_the_reason(fault, monkeypatch):
    monkeypatch.setattr(simplification, "_run", fault)
    model = foldable()
    result = simplify(model)
    assert result.model is model
    assert FAULTS[fault] in result.rolled_back


def test_unknown_simplifiers_are_refused():
    with pytest.raises(InputError, match="onnxslim"):
        simplify(foldable(), "onnxslimm")
