"""`inspect` reads a graph without converting it, and says what the other commands say."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import rtool
from rtool.converters.graphs.graph_view import GraphView
from rtool.converters.graphs.value_shapes import value_shapes
from rtool.errors import InputError, RtoolError


def saved(path, nodes, weights, *, inputs=(("x", TensorProto.FLOAT, ["n", 4]),), opset=21, **metadata):
    values = [helper.make_tensor_value_info(*entry) for entry in inputs]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", values, [output], tensors)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10, **metadata), path)
    return path


def product(weight: np.ndarray, path, **options):
    return saved(path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_the_precision_is_that_of_the_weights(dtype, tmp_path):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    path = product(np.ones((4, 3), dtype), tmp_path / "m.onnx", inputs=(("x", kind, ["n", 4]),))
    found = rtool.inspect(path)
    assert (found.precision, found.parameters, found.batch) == (np.dtype(dtype).name, 12, "dynamic")
    assert found.batch_proof == "not verified"


def refusal(call) -> str:
    with pytest.raises(RtoolError) as raised:
        call()
    return str(raised.value)


def test_problems_are_in_the_words_of_the_command_that_refuses(tmp_path):
    noise = saved(tmp_path / "r.onnx", [helper.make_node("RandomNormalLike", ["x"], ["y"], name="noise")], {})
    said = refusal(lambda: rtool.onnx2torch(noise, tmp_path / "r.rtool"))
    assert said in rtool.inspect(noise).problems
    empty = saved(tmp_path / "e.onnx", [helper.make_node("Relu", ["x"], ["y"])], {})
    assert refusal(lambda: rtool.onnx2torch(empty, tmp_path / "e.rtool")) in rtool.inspect(empty).problems


def test_a_file_in_float16_is_no_problem(tmp_path):
    half = product(np.ones((4, 3), np.float16), tmp_path / "h.onnx", inputs=(("x", TensorProto.FLOAT16, ["n", 4]),))
    assert rtool.inspect(half).problems == ()
    assert rtool.inspect(half).precision == "float16"
    assert rtool.onnx2torch(half, tmp_path / "h.rtool").upcast_from == "float16"


def test_a_half_weight_that_is_only_cast_is_no_problem(tmp_path):
    nodes = [
        helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "f"], ["y"]),
    ]
    path = saved(tmp_path / "m.onnx", nodes, {"w": np.ones((4, 3), np.float16)})
    assert rtool.inspect(path).problems == ()
    assert rtool.onnx2torch(path, tmp_path / "m.rtool").parameters == 12


def dequantised(path, **attributes):
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["f"], **attributes),
        helper.make_node("MatMul", ["x", "f"], ["y"]),
    ]
    scales = np.full((2, 3) if "block_size" in attributes else (), 0.1, np.float32)
    return saved(path, nodes, {"w": np.ones((4, 3), np.int8), "s": scales})


def test_the_three_forms_of_quantisation_are_named(tmp_path):
    found = rtool.inspect(dequantised(tmp_path / "qdq.onnx"))
    assert found.quantised == "QDQ (1 nodes)"
    assert found.precision == "int8"
    said = refusal(lambda: rtool.export(tmp_path / "qdq.onnx", tmp_path / "out.onnx", fp16=True))
    assert said in found.problems
    assert "weights in blocks" in rtool.inspect(dequantised(tmp_path / "b.onnx", axis=0, block_size=2)).quantised
    scales = {name: np.array(value, np.float32) for name, value in (("xs", 0.1), ("ws", 0.1), ("ys", 0.1))}
    zeros = {name: np.array(0, np.int8) for name in ("xz", "wz", "yz")}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node("QLinearMatMul", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "ys", "yz"], ["y"]),
    ]
    path = saved(tmp_path / "qop.onnx", nodes, {"w": np.ones((4, 3), np.int8), **scales, **zeros})
    found = rtool.inspect(path)
    assert "QOperator (1 nodes)" in found.quantised
    assert found.parameters == 12


def test_unread_inputs_and_external_data_are_named(tmp_path):
    inputs = (("x", TensorProto.FLOAT, ["n", 4]), ("mask", TensorProto.INT64, [1]))
    path = product(np.ones((4, 3), np.float32), tmp_path / "m.onnx", inputs=inputs)
    assert rtool.inspect(path).unread_inputs == ("mask",)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    found = rtool.inspect(path)
    assert found.external_files == ("w.bin",)
    assert (found.external_bytes, found.parameters) == (48, 12)
    (tmp_path / "w.bin").write_bytes(b"short")
    with pytest.raises(InputError, match="the data file is cut"):
        rtool.inspect(path)


def exported(module: nn.Module, path):
    torch.onnx.export(module.eval(), torch.zeros(2, 3, 8, 8), path, dynamo=False, opset_version=17)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fused_batchnorms_are_counted_only_with_evidence(tmp_path):
    fused = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert rtool.inspect(exported(fused, tmp_path / "fused.onnx")).batchnorms.fused == 1
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert rtool.inspect(exported(plain, tmp_path / "plain.onnx")).batchnorms.fused is None

    class Scaled(nn.Module):
        """The weight is computed, so torch stores it under a new name; there was never a BatchNorm."""

        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(4))

        def forward(self, x):
            return nn.functional.conv2d(x, self.weight.permute(0, 1, 3, 2).contiguous(), self.bias)

    assert rtool.inspect(exported(Scaled(), tmp_path / "scaled.onnx")).batchnorms.fused is None


def test_sizes_computed_from_shapes_are_known():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "i"], ["n"], axis=0),
        helper.make_node("Mul", ["n", "two"], ["m"]),
        helper.make_node("Unsqueeze", ["m", "axis"], ["u"]),
        helper.make_node("Concat", ["u", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    numbers = {"i": np.array(0), "two": np.array(2), "axis": np.array([0]), "rest": np.array([-1, 2])}
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 8])]
    graph = helper.make_graph(
        nodes, "g", values, [onnx.ValueInfoProto(name="y")], [numpy_helper.from_array(v, k) for k, v in numbers.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    assert value_shapes(model)["y"] == (6, 2, 2)


def test_what_no_output_needs_and_what_is_constant_does_not_count():
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
        helper.make_node("RandomNormalLike", ["x"], ["unused"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [numpy_helper.from_array(np.ones((4, 3)), "w")],
    )  # fmt: skip
    view = GraphView.of(helper.make_model(graph), "m")
    assert [node.op_type for node in view.nodes] == ["MatMul"]
    assert view.origin("t") == "w"
