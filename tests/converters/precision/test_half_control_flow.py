"""An If or a Loop is converted with its branches, or stays in float32 with all of them."""

import numpy as np
import onnx
import pytest
from onnx import helper

from rtool.converters.precision.half import to_half
from rtool.converters.runtime.half_emulation import emulate_half

from .half_models import FLOAT, loop, model_of, run, values


def choosing(last: str = "Relu") -> onnx.ModelProto:
    """An If whose then-branch overflows: (h * 60000) / 60000."""
    then = helper.make_graph(
        [
            helper.make_node("Mul", ["h", "big"], ["raised"], name="raise"),
            helper.make_node("Div", ["raised", "big"], ["then_out"], name="lower"),
        ],
        "then",
        [],
        [helper.make_tensor_value_info("then_out", FLOAT, [2, 3])],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["h"], ["other_out"], name="pass")],  # an outer value handed through
        "other",
        [],
        [helper.make_tensor_value_info("other_out", FLOAT, [2, 3])],
    )
    nodes = [
        helper.make_node("Abs", ["x"], ["h"], name="abs"),
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0, name="max"),
        helper.make_node("Greater", ["m", "limit"], ["c"], name="greater"),
        helper.make_node("If", ["c"], ["b"], name="if", then_branch=then, else_branch=other),
        helper.make_node(last, ["b"], ["y"], name="last"),
    ]
    weights = {"limit": np.float32(0), "big": np.float32(60000)}
    return model_of(nodes, [("x", FLOAT, [2, 3])], [("y", FLOAT, [None, None])], weights)


@pytest.mark.parametrize("last", ["Relu", "ReduceL2"])
def test_control_flow_returns_to_float32_with_all_its_nodes(last):
    model = choosing(last)
    inputs = 10 + values(2, 3)
    half, repaired = to_half(model), to_half(model, keep=["if"])
    assert not np.isfinite(run(emulate_half(half.model), inputs)[0]).all()
    assert set(repaired.returned) == {"if", "raise", "lower", "pass"}
    for sign in (1, -1):  # both branches
        got, expected = run(emulate_half(repaired.model), sign * inputs)[0], run(model, sign * inputs)[0]
        assert np.abs(got - expected).max() <= 1e-3 * np.abs(expected).max()
        run(repaired.model, sign * inputs)


def test_a_loop_stays_in_float32_whole_and_its_emulation_carries_rounded_values():
    model, inputs = loop(), values(2, 3)
    expected = run(model, inputs)[0]
    assert np.array_equal(run(emulate_half(to_half(model, keep=["Loop_0"]).model), inputs)[0], expected)
    got = run(emulate_half(to_half(model).model), inputs)[0]
    assert 0 < np.abs(got - expected).max() <= 1e-3 * np.abs(expected).max()
