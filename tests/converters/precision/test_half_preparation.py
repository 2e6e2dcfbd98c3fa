"""Weights that a graph computes from weights are stored once, in fp16, unless that makes the file larger."""

import numpy as np
from onnx import helper

from rtool.converters.precision.half import to_half

from .half_models import FLOAT, HALF, model_of, operators, run, values, weight_types


def test_weights_computed_from_weights_are_stored_in_float16():
    """A transposed matrix and a weight norm that the exporter did not fold: each is stored once, in float16."""
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "wt"], ["a"]),
        helper.make_node("ReduceL2", ["v"], ["n"], axes=[1], keepdims=1),
        helper.make_node("Div", ["v", "n"], ["unit"]),
        helper.make_node("MatMul", ["a", "unit"], ["y"]),
    ]
    weights = {"w": values(64, 64), "v": values(64, 64, seed=1)}
    model = model_of(nodes, [("x", FLOAT, [2, 64])], [("y", FLOAT, [2, 64])], weights)
    result = to_half(model)
    assert operators(result.model) == ["Cast", "MatMul", "MatMul", "Cast"]
    assert weight_types(result.model) == {HALF}
    assert result.model.ByteSize() <= 0.52 * model.ByteSize()
    inputs = values(2, 64)
    (expected,) = run(model, inputs)
    assert np.abs(run(result.model, inputs)[0] - expected).max() <= 2e-3 * np.abs(expected).max()


def test_a_small_weight_that_is_expanded_stays_small():
    nodes = [helper.make_node("Expand", ["w", "size"], ["big"]), helper.make_node("Add", ["x", "big"], ["y"])]
    weights = {"w": values(1, 2), "size": np.int64([1000, 2])}
    model = model_of(nodes, [("x", FLOAT, [1000, 2])], [("y", FLOAT, [1000, 2])], weights)
    assert "Expand" in operators(to_half(model).model)
