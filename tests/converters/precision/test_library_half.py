"""onnxconverter-common may convert to float16 instead of us; it stands behind the same gate."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import rtool
from rtool.converters.precision.half_search import search_half
from rtool.converters.precision.library_half import convert_with_library
from rtool.errors import InputError


def network(weight: float = 1.0, *between: onnx.NodeProto) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {"w": (weight * rng.standard_normal((4, 3, 3, 3))).astype(np.float32), "b": np.ones(4, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv"),
        *between,
        helper.make_node("Relu", [between[-1].output[0] if between else "c"], ["y"], name="relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def images() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)


def run(model: onnx.ModelProto, array: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: array})[0], np.float32)


@pytest.mark.parametrize("keep_io_types", [True, False])
def test_the_library_converts_weights_and_keeps_the_numbers(keep_io_types):
    model = network()
    half = convert_with_library(model, keep_io_types=keep_io_types, keep=())
    assert {tensor.data_type for tensor in half.model.graph.initializer} == {TensorProto.FLOAT16}
    fed = images() if keep_io_types else images().astype(np.float16)
    np.testing.assert_allclose(run(half.model, fed), run(model, images()), atol=0.02)
    assert half.casts == (2 if keep_io_types else 0)
    assert model.graph.initializer[0].data_type == TensorProto.FLOAT


def test_nodes_stay_in_float32_by_name_and_by_the_list_of_the_library():
    bound = helper.make_node("Max", ["c", "b0"], ["m"], name="max")
    model = network(1.0, bound)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "b0"))
    half = convert_with_library(model, keep_io_types=True, keep=("conv",))
    assert {entry.node: entry.reason for entry in half.float32_nodes} == {
        "conv": "named to stay in float32",
        "max": "onnxconverter-common leaves this operator in float32",
    }
    assert half.returned == ("conv",)


def test_what_overflows_is_found_for_the_library_too():
    model = network(300, helper.make_node("Mul", ["c", "small"], ["m"], name="mul"))
    model.graph.initializer.append(numpy_helper.from_array(np.full(1, 1e-3, np.float32), "small"))
    inputs = [300 * images()]
    assert np.abs(run(model, inputs[0])).max() > 65.504  # before the Mul it is more than float16 holds
    found = search_half(model, inputs, converter="onnxconverter-common")
    assert set(found.float32_nodes) >= {"conv", "mul"}
    assert found.parity.min_cosine >= 0.9999


def test_what_the_library_cannot_convert_is_said_with_a_way_out():
    broken = network()
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(InputError, match=r"onnxconverter-common fails on this model .*leave out --fp16-converter"):
        convert_with_library(broken, keep_io_types=True, keep=())


def test_the_option_needs_float16_and_a_known_name(tmp_path):
    onnx.save(network(), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="--fp16-converter is for reduced precision only; give it with --fp16"):
        rtool.export(tmp_path / "m.onnx", tmp_path / "o.onnx", bf16=True, fp16_converter="onnxconverter-common")
    with pytest.raises(InputError, match="unknown converter 'onnxconverter'; did you mean onnxconverter-common"):
        rtool.export(tmp_path / "m.onnx", tmp_path / "o.onnx", fp16=True, fp16_converter="onnxconverter")
    result = rtool.export(tmp_path / "m.onnx", tmp_path / "o.onnx", fp16=True, fp16_converter="onnxconverter-common")
    assert result.steps[-1].detail.startswith("by onnxconverter-common, 2 Casts added")
