"""Weights behind other nodes become parameters, and weights that are computed with stay trainable."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rtool.converters import bundle_to_onnx, load_bundle, onnx_to_torch, save_bundle
from rtool.converters.passes.constants.constant_folding import constant_tensor
from rtool.converters.precision.half_preparation import prepare_for_half
from rtool.converters.runtime.runners import OnnxRunner
from rtool.errors import InputError

WEIGHT = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def gemm(nodes, weights, opset=21, product=None):
    product = product or helper.make_node("Gemm", ["x", "w"], ["y"], name="/fc/Gemm", transB=1)
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", ["N", 3]), ("y", None))
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph([*nodes, product], "g", infos[:1], infos[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


SCALE, ZERO = np.array([0.1, 0.2, 0.3, 0.4], np.float32), np.zeros(4, np.int8)
HIDDEN = {
    "Constant": ([helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(WEIGHT))], {}),
    "Identity": ([helper.make_node("Identity", ["raw"], ["w"])], {"raw": WEIGHT}),
    "Cast": ([helper.make_node("Cast", ["raw"], ["w"], to=TensorProto.FLOAT)], {"raw": WEIGHT.astype(np.float16)}),
    "Reshape": (
        [helper.make_node("Reshape", ["raw", "shape"], ["w"])],
        {"raw": WEIGHT.reshape(-1), "shape": np.array([4, 3])},
    ),
    "Transpose": ([helper.make_node("Transpose", ["raw"], ["w"], perm=[1, 0])], {"raw": WEIGHT.T.copy()}),
    "ConstantOfShape": (
        [helper.make_node("ConstantOfShape", ["shape"], ["w"], value=numpy_helper.from_array(np.float32([0.5])))],
        {"shape": np.array([4, 3])},
    ),
    "DequantizeLinear": (
        [helper.make_node("DequantizeLinear", ["raw", "scale", "zero"], ["w"], axis=0)],
        {"raw": (WEIGHT * 20).astype(np.int8), "scale": SCALE, "zero": ZERO},
    ),
    "blocked": (
        [helper.make_node("DequantizeLinear", ["raw", "scale"], ["w"], axis=1, block_size=2)],
        {"raw": (WEIGHT * 20).astype(np.int8), "scale": np.abs(WEIGHT[:, :2])},
    ),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_weights_become_parameters_of_a_layer(name, tmp_path):
    proto = gemm(*HIDDEN[name])
    module = onnx_to_torch(proto)
    assert [parameter for parameter, _ in module.named_parameters()] == ["fc.weight"]
    x = np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)
    expected = ReferenceEvaluator(proto).run(None, {"x": x})[0]
    with torch.no_grad():
        assert np.allclose(module(torch.from_numpy(x)).numpy(), expected, rtol=1e-5, atol=1e-6)
    path = save_bundle(module, tmp_path / "m.rtool", source=proto)
    assert torch.equal(load_bundle(path).module.state_dict()["fc.weight"], module.state_dict()["fc.weight"])
    assert bundle_to_onnx(path).SerializeToString() == proto.SerializeToString()


@pytest.mark.parametrize("name", HIDDEN)
def test_a_trained_hidden_weight_is_written_back(name, tmp_path):
    proto = gemm(*HIDDEN[name])
    module = onnx_to_torch(proto)
    with torch.no_grad():
        module.get_parameter("fc.weight").add_(0.25)
    trained = bundle_to_onnx(save_bundle(module, tmp_path / "m.rtool", source=proto))
    x = np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    tolerance = 1e-3 if name == "Cast" else 1e-5  # a float16 weight may stay one
    assert np.allclose(ReferenceEvaluator(trained).run(None, {"x": x})[0], expected, atol=tolerance)


@pytest.mark.parametrize(("opset", "options"), [(10, {}), (13, {}), (13, {"axis": 0}), (18, {"axis": -2}), (19, {})])
def test_dequantised_weights_of_every_opset_that_quantisers_write(opset, options):
    levels = np.clip(WEIGHT * 40, -128, 127).astype(np.int8)
    scale, zero = (SCALE, np.arange(4, dtype=np.int8)) if options else (np.float32(0.02), np.int8(3))
    node = helper.make_node("DequantizeLinear", ["raw", "scale", "zero"], ["w"], **options)
    product = helper.make_node("Gemm", ["x", "w", "c"], ["y"], name="/fc/Gemm", transB=1)
    weights = {"raw": levels, "scale": scale, "zero": zero, "c": WEIGHT[:, 0]}
    module = onnx_to_torch(gemm([node], weights, opset, product))
    columns = (scale, zero) if not options else (scale[:, None], zero[:, None])
    expected = (levels.astype(np.float32) - columns[1]) * columns[0]
    assert np.array_equal(module.get_parameter("fc.weight").detach().numpy(), expected)


def test_a_weight_that_is_computed_with_keeps_its_own_gradient():
    nodes = [helper.make_node("Mul", ["raw", "gain"], ["w"])]
    module = onnx_to_torch(gemm(nodes, {"raw": WEIGHT, "gain": np.full((4, 1), 2, np.float32)}))
    module(torch.ones(1, 3)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert set(gradients) == {"raw", "gain"}
    assert torch.allclose(gradients["raw"], torch.full((4, 3), 2.0))


def test_absurd_sizes_are_refused_before_memory_is_allocated():
    node = helper.make_node("ConstantOfShape", ["shape"], ["w"], name="huge")
    with pytest.raises(InputError, match="absurd"):
        onnx_to_torch(gemm([node], {"shape": np.array([1 << 30, 1 << 30])}))


@pytest.mark.parametrize(
    ("operator", "inputs", "options", "opset"),
    [
        ("HannWindow", [np.array(1 << 40)], {}, 17),
        ("Range", [np.float32(0), np.float32(1e12), np.float32(1)], {}, 17),
        ("AffineGrid", [np.zeros((1, 2, 3), np.float32), np.array([1, 1, 1 << 18, 1 << 18])], {}, 20),
        ("Col2Im", [np.zeros((1, 4, 1), np.float32), np.array([1 << 18] * 2), np.array([2, 2])], {}, 18),
        ("DFT", [np.zeros((1, 4, 1), np.float32), np.array(1 << 36)], {"axis": 1}, 17),
        ("Conv", [np.zeros((1, 1, 2, 2), np.float32), np.zeros((1, 1, 1, 1), np.float32)], {"pads": [1 << 18] * 4}, 17),
        ("AveragePool", [np.zeros((1, 1, 2, 2), np.float32)], {"kernel_shape": [2, 2], "pads": [1 << 18] * 4}, 17),
    ],
)
def test_few_numbers_that_ask_for_a_huge_constant_are_refused(operator, inputs, options, opset):
    names = [f"in{index}" for index in range(len(inputs))]
    given = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(array)))
        for name, array in zip(names, inputs, strict=True)
    ]
    huge = helper.make_node(operator, names, ["w"], name="huge", **options)
    with pytest.raises(InputError, match=rf"node 'huge' \({operator}\): asks for a constant of"):
        onnx_to_torch(gemm([*given, huge], {}, opset))


_CHANNELS = [np.float32([0.5, 2, 1]), np.float32([1, 0, -1]), np.float32([0.2, -0.3, 0.1]), np.float32([0.5, 1, 2])]


@pytest.mark.parametrize("literal", [True, False])
@pytest.mark.parametrize(
    ("operator", "opset", "options", "others"),
    [
        ("Softmax", 9, {"axis": 1}, []),
        ("Softmax", 12, {}, []),
        ("Softmax", 13, {"axis": 1}, []),
        ("LogSoftmax", 11, {"axis": 1}, []),
        ("Hardmax", 11, {"axis": 1}, []),
        ("BatchNormalization", 9, {}, _CHANNELS),  # the evaluator uses statistics of the batch
        ("BatchNormalization", 15, {}, _CHANNELS),
        ("LRN", 17, {"size": 3, "alpha": 0.5}, []),  # one image: the evaluator sums one channel only
    ],
)
def test_a_computed_constant_is_what_onnx_runtime_makes_of_it(operator, opset, options, others, literal):
    arrays = [np.random.default_rng(2).standard_normal((1, 3, 4, 2)).astype(np.float32), *others]
    given = {f"in{index}": array for index, array in enumerate(arrays)}
    constants = [helper.make_node("Constant", [], [n], value=numpy_helper.from_array(a)) for n, a in given.items()]
    nodes = [
        *(constants if literal else []),
        helper.make_node(operator, list(given), ["c"], **options),
        helper.make_node("Mul", ["x", "c"], ["y"]),
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 4, 2]) for name in "xy"]
    weights = [] if literal else [numpy_helper.from_array(array, name) for name, array in given.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 2)).astype(np.float32)
    (expected,) = OnnxRunner(proto).run(x)
    with torch.no_grad():
        assert np.allclose(onnx_to_torch(proto)(torch.from_numpy(x)).numpy(), expected, rtol=1e-5, atol=1e-6)
    prepared = prepare_for_half(proto)
    assert [node.op_type for node in prepared.graph.node] == ["Mul"]
    assert np.allclose(OnnxRunner(prepared).run(x)[0], expected, rtol=1e-5, atol=1e-6)


def test_cycles_are_refused():
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xb"]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:])
    with pytest.raises(InputError, match="cycle"):
        onnx_to_torch(onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


@pytest.mark.parametrize(
    ("attribute", "stored", "dtype", "value"),
    [
        ("value_float", 1.5, np.float32, 1.5),
        ("value_floats", [1.0, 2.0], np.float32, [1.0, 2.0]),
        ("value_int", 3, np.int64, 3),
        ("value_ints", [1, 2], np.int64, [1, 2]),
        ("value_string", "é".encode(), None, "é".encode()),
        ("value_strings", ["é".encode(), b"b"], None, ["é".encode(), b"b"]),
        ("value", numpy_helper.from_array(np.arange(3.0)), np.float64, [0.0, 1.0, 2.0]),
    ],
)
def test_a_constant_has_the_value_that_its_node_states(attribute, stored, dtype, value):
    node = ir.from_proto(helper.make_node("Constant", [], ["c"], **{attribute: stored}))
    tensor = constant_tensor(node)
    assert tensor.dtype == (ir.DataType.STRING if dtype is None else ir.DataType.from_numpy(np.dtype(dtype)))
    assert tensor.numpy().tolist() == value
