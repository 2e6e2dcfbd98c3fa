"""A bound that would round to 0 in fp16 keeps its node in float32, so that nothing is divided by zero."""

import numpy as np
import onnx
import pytest
from onnx import helper

from rtool.converters.precision.half import to_half
from rtool.converters.runtime.half_emulation import emulate_half

from .half_models import FLOAT, model_of, run, values


def normalising(bound: str, epsilon: float = 1e-12) -> onnx.ModelProto:
    """x / |x|, with a bound that keeps a row of zeros from 0 / 0, in the ways exporters write it."""
    head = [
        helper.make_node("MatMul", ["x", "w"], ["e"], name="fc"),
        helper.make_node("ReduceL2", ["e"], ["n"], axes=[1], keepdims=1, name="norm"),
        helper.make_node("Shape", ["e"], ["s"], name="shape"),
    ]
    tails = {
        "clip": [
            helper.make_node("Clip", ["n", "eps"], ["c"], name="guard"),
            helper.make_node("Expand", ["c", "s"], ["d"], name="expand"),
            helper.make_node("Div", ["e", "d"], ["y"], name="div"),
        ],
        "attribute": [
            helper.make_node("Clip", ["n"], ["c"], name="guard", min=epsilon),
            helper.make_node("Div", ["e", "c"], ["y"], name="div"),
        ],
        "max": [
            helper.make_node("Max", ["n", "eps"], ["c"], name="guard"),
            helper.make_node("Div", ["e", "c"], ["y"], name="div"),
        ],
        "add": [
            helper.make_node("Add", ["n", "eps"], ["c"], name="guard"),
            helper.make_node("Reciprocal", ["c"], ["r"], name="reciprocal"),
            helper.make_node("Mul", ["e", "r"], ["y"], name="mul"),
        ],
        "power": [
            helper.make_node("Add", ["n", "eps"], ["c"], name="guard"),
            helper.make_node("Pow", ["c", "minus_one"], ["r"], name="power"),
            helper.make_node("Mul", ["e", "r"], ["y"], name="mul"),
        ],
        "where": [
            helper.make_node("Equal", ["n", "zero"], ["z"], name="comparison"),
            helper.make_node("Where", ["z", "eps", "n"], ["c"], name="guard"),
            helper.make_node("Div", ["e", "c"], ["y"], name="div"),
        ],
        "min": [
            helper.make_node("Neg", ["n"], ["m"], name="neg"),
            helper.make_node("Min", ["m", "minus_eps"], ["c"], name="guard"),
            helper.make_node("Div", ["e", "c"], ["y"], name="div"),
        ],
        "clip from above": [
            helper.make_node("Neg", ["n"], ["m"], name="neg"),
            helper.make_node("Clip", ["m", "", "minus_eps"], ["c"], name="guard"),
            helper.make_node("Div", ["e", "c"], ["y"], name="div"),
        ],
        "sub": [
            helper.make_node("Sub", ["n", "minus_eps"], ["c"], name="guard"),
            helper.make_node("Div", ["e", "c"], ["y"], name="div"),
        ],
        "carried": [
            helper.make_node("Max", ["n", "eps"], ["c"], name="guard"),
            helper.make_node("Sub", ["c", "zero"], ["c1"], name="less nothing"),
            helper.make_node("Add", ["c1", "zero"], ["c2"], name="and nothing"),
            helper.make_node("Neg", ["c2"], ["c3"], name="neg"),
            helper.make_node("IsNaN", ["c3"], ["is_nan"], name="isnan"),
            helper.make_node("Where", ["is_nan", "zero", "c3"], ["c4"], name="unless not a number"),
            helper.make_node("Div", ["e", "c4"], ["y"], name="div"),
        ],
    }
    weights = {"w": values(8, 8), "eps": np.float32(epsilon), "minus_one": np.float32(-1)}
    weights |= {"minus_eps": np.float32(-epsilon), "zero": np.float32(0)}
    opset = 10 if bound == "attribute" else 17
    return model_of([*head, *tails[bound]], [("x", FLOAT, ["N", 8])], [("y", FLOAT, ["N", 8])], weights, opset)


@pytest.mark.parametrize(
    "bound", ["clip", "attribute", "max", "add", "power", "where", "min", "clip from above", "sub", "carried"]
)
def test_a_row_of_zeros_stays_a_row_of_zeros_behind_a_normalisation(bound):
    model = normalising(bound)
    result = to_half(model)
    names = {entry.node for entry in result.float32_nodes}
    assert {"guard", "norm"} <= names
    assert "fc" not in names
    assert (result.flushed, result.returned) == (0, ())
    inputs = np.concatenate([np.zeros((1, 8), np.float32), values(3, 8)])
    (expected,) = run(model, inputs)
    for half in (result.model, emulate_half(result.model)):
        got = run(half, inputs)[0]
        assert np.abs(got - expected).max() <= 2e-3


def test_what_a_where_compares_is_compared_before_it_is_rounded():
    """A square sum of 1e-10 is 0 in float16 but not in float32, so the Where would select the epsilon."""
    nodes = [
        helper.make_node("ReduceSumSquare", ["x"], ["n"], axes=[1], keepdims=1, name="norm"),
        helper.make_node("Equal", ["n", "zero"], ["z"], name="comparison"),
        helper.make_node("Where", ["z", "eps", "n"], ["c"], name="guard"),
        helper.make_node("Div", ["m", "c"], ["y"], name="div"),
    ]
    weights = {"zero": np.float32(0), "eps": np.float32(1e-16)}
    square = helper.make_node("Mul", ["x", "x"], ["m"], name="square")
    model = model_of([square, *nodes], [("x", FLOAT, ["N", 8])], [("y", FLOAT, ["N", 8])], weights)
    assert {"norm", "comparison", "guard", "div"} == {entry.node for entry in to_half(model).float32_nodes}
    inputs = 1e-3 * values(3, 8)
    inputs[1] = np.float32([0] * 7 + [1e-5])
    (expected,) = run(model, inputs)
    got = run(emulate_half(to_half(model, keep=["square"]).model), inputs)[0]
    assert np.abs(got - expected).max() <= 1e-6


def test_a_bound_that_float16_holds_costs_nothing():
    assert {entry.node for entry in to_half(normalising("clip", 1e-5)).float32_nodes} == {"norm"}


def test_a_divisor_that_would_underflow_to_zero_stays_in_float32():
    nodes = [helper.make_node("Div", ["x", "d"], ["y"], name="div"), helper.make_node("Mul", ["y", "d"], ["z"])]
    model = model_of(nodes, [("x", FLOAT, [2])], [("z", FLOAT, [2])], {"d": np.float32([1e-9, 1])})
    assert [(entry.node, entry.reason) for entry in to_half(model).float32_nodes] == [
        ("div", "its divisor would underflow to 0")
    ]
