"""fp16 models are sorted, pass the checker, run, and keep their numbers; what cannot be converted stays in float32."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator
from torch import nn

from rtool.converters.precision.half import to_half
from rtool.converters.runtime.half_emulation import emulate_half
from rtool.errors import InputError

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


def test_a_plain_network_gets_one_cast_in_and_one_out():
    model = exported(network(), 2, 3, 16, 16)
    result = to_half(model)
    assert result.casts == 2
    assert not result.float32_nodes
    assert operators(result.model)[0] == operators(result.model)[-1] == "Cast"
    assert {tensor.data_type for tensor in result.model.graph.initializer if tensor.data_type != TensorProto.INT64} == {
        HALF
    }
    assert to_half(model, keep_io_types=False).casts == 0


def test_named_nodes_stay_in_float32():
    model = exported(network(), 2, 3, 16, 16)
    relu = next(node.name for node in model.graph.node if node.op_type == "Relu")
    result = to_half(model, keep=[relu])
    assert [(entry.node, entry.reason) for entry in result.float32_nodes] == [(relu, "requested")]
    assert result.casts == 4
    with pytest.raises(InputError, match="no node named 'nothing'"):
        to_half(model, keep=["nothing"])


def test_weights_are_rounded_never_clipped():
    model = large_weight()
    result = to_half(model)
    assert [entry.node for entry in result.float32_nodes] == ["big_mul"]
    assert "exceeds 65504" in result.float32_nodes[0].reason
    big = next(tensor for tensor in result.model.graph.initializer if tensor.name == "big")
    assert np.array_equal(numpy_helper.to_array(big), np.float32([1e5, 2e5, 3e5]))


def test_weights_that_underflow_to_zero_are_counted():
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    model = model_of(nodes, [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3])], {"w": np.float32([1e-9, 0, 1])})
    assert to_half(model).flushed == 1


def test_bfloat16_converts_what_the_opset_allows():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Conv", ["m", "k"], ["y"])]
    weights = {"w": values(4, 4), "k": values(1, 1, 1, 1)}
    model = model_of(nodes, [("x", FLOAT, [1, 1, 4, 4])], [("y", FLOAT, [1, 1, 4, 4])], weights)
    result = to_half(model, dtype="bfloat16").model
    types = {tensor.name: tensor.data_type for tensor in result.graph.initializer}
    assert types == {"w": TensorProto.BFLOAT16, "k": FLOAT}  # Conv accepts bfloat16 from opset 22 on


def test_a_bfloat16_file_computes_what_its_emulation_does():
    """ONNX Runtime has no bfloat16 Conv on CPU; the reference evaluator runs the file in bfloat16."""
    model = version_converter.convert_version(exported(network(), 2, 3, 16, 16), 22)
    result = to_half(model, dtype="bfloat16").model
    assert weight_types(result) == {TensorProto.BFLOAT16}
    inputs = values(2, 3, 16, 16)
    computed = np.asarray(ReferenceEvaluator(result).run(None, {model.graph.input[0].name: inputs})[0], np.float32)
    imitated, exact = run(emulate_half(result), inputs)[0], run(model, inputs)[0]
    scale = np.abs(exact).max()
    # Each rounds five values to 8 bits, in its own order of summation: steps of 2**-8 at the most.
    assert np.abs(computed - imitated).max() <= 2**-7 * scale
    assert 0 < np.abs(imitated - exact).max() <= 2**-6 * scale


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


def test_identities_and_constants_may_stand_in_a_list_of_nodes_to_keep():
    nodes = [
        helper.make_node("Constant", [], ["c"], value_float=2.0, name="constant"),
        helper.make_node("Identity", ["x"], ["same"], name="identity"),
        helper.make_node("Mul", ["same", "c"], ["y"], name="mul"),
    ]
    model = model_of(nodes, [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3])])
    result = to_half(model, keep=["identity", "constant", "mul"])
    assert result.returned == ("mul",)
    plain = to_half(model)
    assert (operators(plain.model), plain.casts) == (["Cast", "Mul", "Cast"], 2)


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


def test_names_in_the_graph_are_never_used_twice():
    nodes = [
        helper.make_node("Relu", ["x"], ["x_float16"], name="Cast_x_float16"),
        helper.make_node("Add", ["x_float16", "w"], ["a"], name="wide"),
        helper.make_node("Add", ["a", "w"], ["b"], name="converted"),
        helper.make_node("Add", ["b", "w_float"], ["c"], name="other"),
        helper.make_node("Add", ["c", "w_float16"], ["y"], name="last"),
    ]
    weights = {name: values(3, seed=seed) for seed, name in enumerate(("w", "w_float", "w_float16"))}
    model = model_of(nodes, [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3])], weights)
    result = to_half(model, keep=["wide"]).model
    names = [node.name for node in result.graph.node]
    assert len(set(names)) == len(names)
    inputs = values(2, 3)
    assert np.abs(run(result, inputs)[0] - run(model, inputs)[0]).max() <= 5e-3


@pytest.mark.parametrize("keep_io_types", [True, False])
def test_a_weight_that_is_an_output_keeps_its_name(keep_io_types):
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"]), helper.make_node("Add", ["x", "w"], ["z"], name="add")]
    outputs = [("y", FLOAT, [2, 3]), ("w", FLOAT, [3]), ("z", FLOAT, [2, 3])]
    model = model_of(nodes, [("x", FLOAT, [2, 3])], outputs, {"w": values(3)})
    result = to_half(model, keep_io_types=keep_io_types, keep=["add"]).model
    kind = FLOAT if keep_io_types else HALF
    assert [(value.name, value.type.tensor_type.elem_type) for value in result.graph.output] == [
        (name, kind) for name in "ywz"
    ]
    assert np.abs(run(result, values(2, 3))[1] - values(3)).max() <= (0 if keep_io_types else 2e-3)


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
