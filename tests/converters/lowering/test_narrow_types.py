"""Types of 8 bits and fewer: every operator that ONNX allows for them, against onnx's evaluator and NumPy's casts."""

import math

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rtool.converters.bundles.onnx_to_bundle import onnx2torch
from rtool.converters.exporting.pipeline import export
from rtool.converters.exporting.reexport import torch_to_onnx
from rtool.converters.lowering.conversion import onnx_to_torch
from rtool.converters.lowering.values import stored_tensor, torch_dtype, torch_tensor
from rtool.converters.runtime.runners import OnnxRunner
from rtool.converters.weights.writing_back import write_back
from rtool.errors import InputError, UnsupportedOperatorsError

INTEGERS = ("INT2", "UINT2", "INT4", "UINT4")
FLOAT8 = ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ")
FLOATS = ("FLOAT4E2M1", "FLOAT6E2M3", "FLOAT6E3M2", *FLOAT8)
MOVED = (*INTEGERS, "FLOAT4E2M1", *FLOAT8, "FLOAT8E8M0")
"""Floats of 6 bits: ONNX 28 lets only casts and quantisation take them."""
NARROW = (*INTEGERS, *FLOATS, "FLOAT8E8M0")


def numpy_dtype(name):
    return helper.tensor_dtype_to_np_dtype(getattr(TensorProto, name))


def every_value(name):
    """All numbers of a type, [n]."""
    bits = ir.DataType[name].bitwidth
    codes = np.arange(2**bits, dtype=np.uint8)
    if name in INTEGERS:
        low = -(2 ** (bits - 1)) if name.startswith("I") else 0
        return (codes.astype(np.int16) + low).astype(numpy_dtype(name))
    return codes.view(numpy_dtype(name))


def model(nodes, inputs, outputs, initializers=()):
    def info(name, dtype, shape):
        return helper.make_tensor_value_info(name, getattr(TensorProto, dtype), shape)

    graph = helper.make_graph(
        nodes, "narrow", [info(*value) for value in inputs], [info(*value) for value in outputs], list(initializers)
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 28)], ir_version=onnx.IR_VERSION)


def held(array, name):
    """An array as the module takes it."""
    return torch_tensor(ir.Tensor(np.asarray(array), dtype=ir.DataType[name]))


def widened(result):
    return result.detach().to(torch.float64).numpy()


def run(proto, **feeds):
    """The module's result beside the evaluator's, both in float64."""
    types = {value.name: TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in proto.graph.input}
    result = onnx_to_torch(proto)(*(held(array, types[name]) for name, array in feeds.items()))
    (expected,) = ReferenceEvaluator(proto).run(None, feeds)
    return widened(result), expected.astype(np.float64)


def hard_numbers(name):
    """Float64: every number of a type, what lies halfway between two, and a little to either side of it."""
    numbers = np.unique(every_value(name).astype(np.float64))
    numbers = numbers[np.isfinite(numbers)]
    halves = (numbers[1:] + numbers[:-1]) / 2
    edges = numbers[-1] * np.array([1.01, 1.0625, 1.07, 1.5, 1e6])
    points = np.concatenate([numbers, halves, edges])
    return np.concatenate([points, points * (1 + 2.0**-40), points * (1 - 2.0**-40), -edges])


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("other", ["FLOAT", "DOUBLE", "FLOAT16", "INT8", "INT64", "UINT8"])
def test_every_value_casts_to_other_types(name, other):
    values = every_value(name)
    if np.issubdtype(numpy_dtype(other), np.integer):
        wide = values.astype(np.float64)
        info = np.iinfo(numpy_dtype(other))
        values = values[np.isfinite(wide) & (wide >= info.min) & (wide <= info.max)]  # beyond, ONNX defines nothing
    shape = [len(values)]
    node = helper.make_node("Cast", ["x"], ["y"], to=getattr(TensorProto, other))
    with np.errstate(over="ignore"):
        got, expected = run(model([node], [("x", name, shape)], [("y", other, shape)]), x=values)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("dtype", ["DOUBLE", "FLOAT", "FLOAT16"])
def test_casts_to_small_floats_round_to_the_nearest_even(name, dtype):
    with np.errstate(over="ignore"):
        x = hard_numbers(name).astype(numpy_dtype(dtype))
    x = x[np.isfinite(x)]
    numbers = np.unique(every_value(name).astype(np.float64))
    numbers = numbers[np.isfinite(numbers)]
    node = helper.make_node("Cast", ["x"], ["y"], to=getattr(TensorProto, name))
    result = onnx_to_torch(model([node], [("x", dtype, [len(x)])], [("y", name, [len(x)])]))(torch.from_numpy(x))
    np.testing.assert_array_equal(widened(result), [nearest_even(float(item), numbers) for item in x])


def nearest_even(x, numbers):
    """By search: the nearest of sorted `numbers` ending at the largest; of two equally near the even code."""
    distance = np.abs(numbers - x)
    best = np.flatnonzero(distance == distance.min())
    zero = int(np.flatnonzero(numbers == 0)[0])
    return numbers[best[0] if len(best) == 1 or (best[0] - zero) % 2 == 0 else best[1]]


@pytest.mark.parametrize("name", FLOAT8)
@pytest.mark.parametrize("saturate", [0, 1])
def test_casts_to_float8_overflow_as_the_table_of_cast_says(name, saturate):
    largest = float(ml_dtypes.finfo(numpy_dtype(name)).max)
    x = np.array([np.nan, np.inf, -np.inf, 4 * largest, -4 * largest, largest], np.float32)
    node = helper.make_node("Cast", ["x"], ["y"], to=getattr(TensorProto, name), saturate=saturate)
    got, _ = run(model([node], [("x", "FLOAT", [6])], [("y", name, [6])]), x=x)
    over = largest if saturate else np.inf if name == "FLOAT8E5M2" else np.nan
    np.testing.assert_array_equal(got, [np.nan, over, -over, over, -over, largest])


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize(("mode", "exact"), [("up", math.ceil), ("down", math.floor)])
def test_casts_to_powers_of_two_round_the_exponent(mode, exact, saturate):
    x = np.float32([1.0, 1.5, 1.25, 3.0, 124.55, 2.0**-126, 2.0**-127, 3e38, np.nan, np.inf])
    expected = np.array([2.0 ** exact(math.log2(item)) for item in x[:-2]] + [np.nan, 2.0**127])
    if not saturate:
        expected[(expected > 2.0**127) | np.isinf(x)] = np.nan
    expected = np.minimum(expected, 2.0**127)
    np.testing.assert_array_equal(power_of_two(x, mode, saturate), expected)


def test_powers_of_two_round_to_the_nearest_with_ties_up_and_zero_is_out_of_range():
    x = np.float32([1.4, 1.5, 1.6, 3.0, 0.0, 2.0**-130])
    np.testing.assert_array_equal(power_of_two(x, "nearest", 0), [1, 2, 2, 4, np.nan, np.nan])
    np.testing.assert_array_equal(power_of_two(x, "nearest", 1), [1, 2, 2, 4, 2.0**-127, 2.0**-127])


def power_of_two(x, mode, saturate):
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E8M0, round_mode=mode, saturate=saturate)
    proto = model([node], [("x", "FLOAT", [len(x)])], [("y", "FLOAT8E8M0", [len(x)])])
    return widened(onnx_to_torch(proto)(torch.from_numpy(x)))


@pytest.mark.parametrize("name", INTEGERS)
def test_casts_to_small_integers_keep_the_low_bits(name):
    x = np.arange(-40, 300, dtype=np.int32)
    bits, signed = int(name[-1]), name.startswith("I")
    node = helper.make_node("Cast", ["x"], ["y"], to=getattr(TensorProto, name))
    got, _ = run(model([node], [("x", "INT32", [len(x)])], [("y", name, [len(x)])]), x=x)
    low = x % 2**bits
    np.testing.assert_array_equal(got, np.where(signed & (low >= 2 ** (bits - 1)), low - 2**bits, low))


@pytest.mark.parametrize("name", [*INTEGERS, "FLOAT4E2M1", *FLOAT8])
@pytest.mark.parametrize("weights", ["inputs", "initializers"])
def test_quantisation_and_its_inverse_equal_the_evaluator(name, weights):
    x = np.random.default_rng(0).normal(0, 6, (4, 6)).astype(np.float32)
    scale = np.float32([[0.5, 1.25], [2, 0.125], [1, 3], [0.7, 0.3]])
    zero = np.ones((4, 2)).astype(numpy_dtype(name)) if name in INTEGERS else np.zeros((4, 2)).astype(numpy_dtype(name))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["levels"], axis=1, block_size=3),
        helper.make_node("DequantizeLinear", ["levels", "scale", "zero"], ["y"], axis=1, block_size=3),
    ]
    inputs, initializers = [("x", "FLOAT", [4, 6])], []
    feeds = {"x": x}
    if weights == "inputs":
        inputs += [("scale", "FLOAT", [4, 2]), ("zero", name, [4, 2])]
        feeds |= {"scale": scale, "zero": zero}
    else:
        initializers = [tensor_proto(scale, "FLOAT", "scale"), tensor_proto(zero, name, "zero")]
    got, expected = run(model(nodes, inputs, [("y", "FLOAT", [4, 6])], initializers), **feeds)
    np.testing.assert_array_equal(got, expected)


def tensor_proto(array, dtype, name):
    return ir.serde.serialize_tensor(ir.Tensor(array, dtype=ir.DataType[dtype], name=name))


MOVES = {
    "Identity": ({}, [], [2, 3]),
    "Reshape": ({}, [("shape", np.int64([3, 2]))], [3, 2]),
    "Transpose": ({"perm": [1, 0]}, [], [3, 2]),
    "Flatten": ({"axis": 0}, [], [1, 6]),
    "Unsqueeze": ({}, [("axes", np.int64([0]))], [1, 2, 3]),
    "Squeeze": ({}, [("axes", np.int64([0]))], [2, 3]),
    "Pad": ({"mode": "edge"}, [("pads", np.int64([0, 1, 0, 0]))], [2, 4]),
}


@pytest.mark.parametrize("operator", MOVES)
@pytest.mark.parametrize("name", MOVED)
def test_operators_that_move_elements_keep_their_bits(operator, name):
    attributes, arguments, shape = MOVES[operator]
    values = np.resize(every_value(name)[1:], 6).reshape((1, 2, 3) if operator == "Squeeze" else (2, 3))
    node = helper.make_node(operator, ["x", *(key for key, _ in arguments)], ["y"], **attributes)
    initializers = [numpy_helper.from_array(array, key) for key, array in arguments]
    proto = model([node], [("x", name, values.shape)], [("y", name, shape)], initializers)
    got, expected = run(proto, x=values)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("name", MOVED)
def test_padding_with_a_value_of_the_type(name, given):
    values = every_value(name)[1:4]
    initializers = [numpy_helper.from_array(np.int64([1, 2]), "pads")]
    initializers += [tensor_proto(values[1:2].reshape(()), name, "value")] if given else []
    node = helper.make_node("Pad", ["x", "pads", *(["value"] if given else [])], ["y"])
    proto = model([node], [("x", name, [3])], [("y", name, [6])], initializers)
    if name == "FLOAT8E8M0" and not given:
        with pytest.raises(UnsupportedOperatorsError, match="has no zero to pad with"):
            onnx_to_torch(proto)
        return
    got, expected = run(proto, x=values)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", MOVED)
def test_initializers_constants_and_filled_tensors_are_read(name):
    values = every_value(name)[:4]
    filled = tensor_proto(values[1:2], name, "filled")
    nodes = [
        helper.make_node("Constant", [], ["constant"], value=tensor_proto(values, name, "constant")),
        helper.make_node("ConstantOfShape", ["shape"], ["same"], value=filled),
        *(
            helper.make_node("Cast", [source], [f"{source}_float"], to=TensorProto.FLOAT)
            for source in ("weight", "constant", "same")
        ),
        helper.make_node("Sum", ["x", "weight_float", "constant_float", "same_float"], ["y"]),
    ]
    initializers = [tensor_proto(values, name, "weight"), numpy_helper.from_array(np.int64([4]), "shape")]
    proto = model(nodes, [("x", "FLOAT", [4])], [("y", "FLOAT", [4])], initializers)
    wide = values.astype(np.float64)
    got = widened(onnx_to_torch(proto)(torch.zeros(4)))
    np.testing.assert_array_equal(got, wide + wide + wide[1])


@pytest.mark.parametrize("name", NARROW)
def test_a_weight_goes_back_packed_as_it_came(name):
    values = np.resize(every_value(name), 7)
    node = helper.make_node("DequantizeLinear", ["weight", "scale"], ["y"])
    if name == "FLOAT8E8M0" or name.startswith("FLOAT6"):
        node = helper.make_node("CastLike", ["weight", "scale"], ["y"])
    proto = model([node], [("scale", "FLOAT", [])], [("y", "FLOAT", [7])], [tensor_proto(values, name, "weight")])
    module = onnx_to_torch(proto)
    assert not list(module.parameters())
    assert write_back(module, proto) == proto
    (buffer,) = (tensor for _, tensor in module.named_buffers())
    assert stored_tensor(buffer, ir.DataType[name], "weight").tobytes() == proto.graph.initializer[0].raw_data


@pytest.mark.parametrize(("name", "wrong"), [("INT4", 8), ("UINT2", 4), ("FLOAT4E2M1", 5.0), ("FLOAT8E8M0", 3.0)])
def test_values_that_the_type_does_not_have_are_not_packed(name, wrong):
    tensor = torch.tensor([wrong], dtype=torch_dtype(ir.DataType[name]))
    with pytest.raises(InputError, match=f"'weight': holds values that {name} does not have"):
        stored_tensor(tensor, ir.DataType[name], "weight")


@pytest.mark.parametrize(("name", "target"), [("INT4", "UINT4"), ("FLOAT4E2M1", "INT4"), ("UINT8", "FLOAT8E8M0")])
def test_bits_of_types_that_torch_holds_in_wider_ones_are_not_reinterpreted(name, target):
    node = helper.make_node("BitCast", ["x"], ["y"], to=getattr(TensorProto, target))
    with pytest.raises(UnsupportedOperatorsError, match="in a wider dtype of other bits; use Cast"):
        onnx_to_torch(model([node], [("x", name, [2])], [("y", target, [2])]))


def test_a_new_graph_would_change_types_that_torch_does_not_have():
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT4)
    module = onnx_to_torch(model([node], [("x", "FLOAT", [2, 3])], [("y", "INT4", [2, 3])]))
    with pytest.raises(InputError, match="'y' is int4, which torch holds in a wider type"):
        torch_to_onnx(module, torch.zeros(2, 3))


@pytest.mark.parametrize("name", ["INT4", "FLOAT8E4M3FN"])
def test_a_file_that_takes_such_a_type_is_refused_where_it_must_be_compared(name):
    node = helper.make_node("DequantizeLinear", ["x", "scale"], ["y"])
    scale = numpy_helper.from_array(np.float32(2), "scale")
    proto = model([node], [("x", name, [2])], [("y", "FLOAT", [2])], [scale])
    proto.opset_import[0].version, proto.ir_version = 21, 10
    with pytest.raises(InputError, match=r"'x' is tensor\(.*4.*\), which ONNX Runtime cannot exchange with NumPy"):
        OnnxRunner(proto)


def test_packed_weights_are_compared_in_float32(tmp_path):
    """By default ONNX Runtime would round the activations of this product to 8 bits: an error of 0.4 %."""
    levels = np.random.default_rng(0).integers(-8, 8, (4, 6)).astype(ml_dtypes.int4)
    nodes = [
        helper.make_node("DequantizeLinear", ["weight", "scale"], ["wide"]),
        helper.make_node("MatMul", ["x", "wide"], ["y"]),
    ]
    initializers = [tensor_proto(levels, "INT4", "weight"), numpy_helper.from_array(np.float32(0.1), "scale")]
    proto = model(nodes, [("x", "FLOAT", ["N", 4])], [("y", "FLOAT", ["N", 6])], initializers)
    proto.opset_import[0].version, proto.ir_version = 21, 10
    onnx.save(proto, tmp_path / "packed.onnx")
    onnx2torch(tmp_path / "packed.onnx", tmp_path / "bundle")
    export(tmp_path / "bundle", tmp_path / "again.onnx")
    written = onnx.load(tmp_path / "again.onnx").graph
    assert [node.op_type for node in written.node] == ["DequantizeLinear", "MatMul"]
    assert written.initializer[0] == proto.graph.initializer[0]
