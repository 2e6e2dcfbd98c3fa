"""Models that are awkward to convert to fp16 stay sorted, pass the checker, run, and keep their numbers."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.converters.precision.half import to_half
from rtool.converters.runtime.half_emulation import emulate_half

from .half_models import FLOAT, HALF, large_weight, loop, model_of, run, values


def resize() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Resize", ["r", "", "scales"], ["y"], mode="linear"),
    ]
    weights = {"scales": np.float32([1, 1, 1.7, 2.3])}
    return model_of(nodes, [("x", FLOAT, [1, 3, 8, 8])], [("y", FLOAT, ["a", "b", "c", "d"])], weights)


def resize_by_shape_arithmetic() -> onnx.ModelProto:
    """Scales computed from a shape: in half precision, 2049 / 1024 would be 2."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Cast", ["s"], ["f"], to=FLOAT),
        helper.make_node("Div", ["wanted", "f"], ["scales"]),
        helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest"),
    ]
    weights = {"wanted": np.float32([1, 1, 1, 2049])}
    return model_of(nodes, [("x", FLOAT, [1, 1, 1, 1024])], [("y", FLOAT, ["a", "b", "c", "d"])], weights)


def casts() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT32),
        helper.make_node("Cast", ["i"], ["f"], to=FLOAT),
        helper.make_node("Add", ["f", "x"], ["y"]),
    ]
    return model_of(nodes, [("x", FLOAT, [4, 3])], [("y", FLOAT, [4, 3])])


def constant_of_shape() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["zeros"]),
        helper.make_node("Add", ["x", "zeros"], ["y"]),
    ]
    return model_of(nodes, [("x", FLOAT, ["N", 3])], [("y", FLOAT, ["N", 3])])


def branch(name: str, operator: str) -> onnx.GraphProto:
    """A subgraph that reads `h` of the outer graph and a weight of its own."""
    return helper.make_graph(
        [helper.make_node(operator, ["h", f"{name}_w"], [f"{name}_out"], name=f"{name}_{operator}")],
        name,
        [],
        [helper.make_tensor_value_info(f"{name}_out", FLOAT, [2, 3])],
        [numpy_helper.from_array(np.float32([1.5, 2, 3]), f"{name}_w")],
    )


def conditional() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "limit"], ["c"]),
        helper.make_node("If", ["c"], ["b"], then_branch=branch("then", "Mul"), else_branch=branch("other", "Add")),
        helper.make_node("Sigmoid", ["b"], ["y"]),
    ]
    weights = {"limit": np.float32(0.5)}
    return model_of(nodes, [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3])], weights)


def shared_weight() -> onnx.ModelProto:
    """One weight for a node that must stay in float32 and one that need not."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"]),
        helper.make_node("ReduceL2", ["w"], ["n"], axes=[0], keepdims=1),
        helper.make_node("ReduceL2", ["a"], ["l"], axes=[1], keepdims=1),
        helper.make_node("Div", ["a", "l"], ["d"]),
        helper.make_node("Add", ["d", "n"], ["y"]),
    ]
    return model_of(nodes, [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3])], {"w": np.float32([300, 2, 3])})


def constants_and_bounds() -> onnx.ModelProto:
    """Nameless nodes, Constants, a Clip whose upper bound means infinity, an input that is an output."""
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32([1, 2, 3]))),
        helper.make_node("Add", ["x", "c"], ["a"]),
        helper.make_node("Constant", [], ["low"], value=numpy_helper.from_array(np.float32(0))),
        helper.make_node("Constant", [], ["high"], value=numpy_helper.from_array(np.float32(3.4e38))),
        helper.make_node("Clip", ["a", "low", "high"], ["y"]),
    ]
    return model_of(nodes, [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3]), ("a", FLOAT, [2, 3])])


CORNERS = {
    function.__name__: function
    for function in (
        resize,
        resize_by_shape_arithmetic,
        casts,
        constant_of_shape,
        conditional,
        loop,
        large_weight,
        shared_weight,
        constants_and_bounds,
    )
}


@pytest.mark.parametrize("keep_io_types", [True, False])
@pytest.mark.parametrize("name", CORNERS)
def test_corner_models_stay_valid_and_keep_their_numbers(name, keep_io_types):
    model = CORNERS[name]()
    before = model.SerializeToString()
    result = to_half(model, keep_io_types=keep_io_types).model
    assert model.SerializeToString() == before
    onnx.checker.check_model(result, full_check=True)
    kinds = {value.type.tensor_type.elem_type for value in (*result.graph.input, *result.graph.output)}
    assert kinds == ({FLOAT} if keep_io_types else {HALF})
    shape = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    inputs = values(*shape).astype(np.float16).astype(np.float32)
    for expected, got in zip(run(model, inputs), run(result, inputs), strict=True):
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("value", [None, 2.0, 1e5])
def test_a_constant_of_a_shape_known_at_run_time_gets_the_converted_dtype(value):
    filling = {} if value is None else {"value": numpy_helper.from_array(np.float32([value]))}
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["c"], name="fill", **filling),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    model = model_of(nodes, [("x", FLOAT, [2, 3]), ("size", TensorProto.INT64, [2])], [("y", FLOAT, ["a", "b"])])
    result = to_half(model)
    assert [entry.node for entry in result.float32_nodes] == (["fill"] if value == 1e5 else [])
    arrays = values(2, 3), np.int64([2, 3])
    if value != 1e5:
        for half in (result.model, emulate_half(result.model)):
            assert np.abs(run(half, *arrays)[0] - run(model, *arrays)[0]).max() <= 2e-3


def test_an_identity_matrix_created_in_half_is_emulated():
    nodes = [helper.make_node("EyeLike", ["x"], ["e"], dtype=FLOAT), helper.make_node("MatMul", ["x", "e"], ["y"])]
    model = model_of(nodes, [("x", FLOAT, [4, 4])], [("y", FLOAT, [4, 4])])
    assert np.abs(run(emulate_half(to_half(model).model), values(4, 4))[0] - values(4, 4)).max() <= 2e-3
