"""A file in 16 bits or quantised is rewritten as it is stored by the steps that train nothing."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rtool.cli.main import run
from rtool.converters import onnx_to_torch


def quantised(folder):
    """A convolution with an int8 weight, traced at a batch of 2: float32 [2, 3, 8, 8] -> [2, 4]."""
    levels = np.random.default_rng(0).integers(-127, 127, (4, 3, 3, 3)).astype(np.int8)
    weights = {
        "q": levels,
        "s": np.array([0.01, 0.02, 0.03, 0.04], np.float32),
        "z": np.zeros(4, np.int8),
        "to": np.array([2, 4]),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Reshape", ["g", "to"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path = folder / "quantised.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_a_new_batch_keeps_quantised_weights(tmp_path):
    source, target = quantised(tmp_path), tmp_path / "dynamic.onnx"
    assert run(["export", str(source), "--batch", "dynamic", "-o", str(target)]) == 0
    stored = {tensor.data_type for tensor in onnx.load(target).graph.initializer if len(tensor.dims) == 4}
    assert stored == {TensorProto.INT8}
    images = np.random.default_rng(1).standard_normal((6, 3, 8, 8)).astype(np.float32)
    (together,) = onnxruntime.InferenceSession(target).run(None, {"x": images})
    session = onnxruntime.InferenceSession(source)
    pairs = [session.run(None, {"x": images[start : start + 2]})[0] for start in (0, 2, 4)]
    np.testing.assert_allclose(together, np.concatenate(pairs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step", [["--fp16"], ["--fold-padded"]])
def test_a_step_that_needs_float_weights_names_the_way_out_of_a_quantised_file(step, tmp_path, capsys):
    source = quantised(tmp_path)
    assert run(["export", str(source), *step, "-o", str(tmp_path / "out.onnx")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "is quantised" in said
    assert "`rtool onnx2torch`" in said
    bundle = tmp_path / "quantised.rtool"
    assert run(["onnx2torch", str(source), "-o", str(bundle)]) == 0
    assert run(["export", str(bundle), *step, "-o", str(tmp_path / "out.onnx")]) == 0


def test_weights_given_over_a_file_in_16_bits_are_not_lost(tmp_path):
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float16)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["n", 4, 6, 6])],
        [numpy_helper.from_array(weight, "w")],
    )
    source, target = tmp_path / "half.onnx", tmp_path / "out.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    torch.save({"w": torch.from_numpy(weight.astype(np.float32) * 2)}, tmp_path / "w.pth")
    assert run(["export", str(source), "--weights", str(tmp_path / "w.pth"), "-o", str(target)]) == 0
    (written,) = (numpy_helper.to_array(tensor) for tensor in onnx.load(target).graph.initializer)
    np.testing.assert_array_equal(written, weight * 2)
    assert next(onnx_to_torch(target).parameters()).dtype == torch.float16


def test_a_float64_file_is_measured_on_float64_images(tmp_path):
    """ONNX Runtime has no Conv in float64, so onnx.reference computes the file."""
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3))
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
            helper.make_node("GlobalAveragePool", ["c"], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n", 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    source, target = tmp_path / "double.onnx", tmp_path / "out.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    assert run(["export", str(source), "-o", str(target)]) == 0
    (written,) = (numpy_helper.to_array(tensor) for tensor in onnx.load(target).graph.initializer)
    np.testing.assert_array_equal(written, weight)
    bundle, people = tmp_path / "double.rtool", "synthetic-people:identities=4,seed=1"
    assert run(["onnx2torch", str(source), "-o", str(bundle)]) == 0
    assert run(["evaluate", str(bundle), people, "--preprocessing", "imagenet,size=8x8"]) == 0


def test_an_output_that_states_a_size_of_0_goes_back_to_float16(tmp_path):
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float16)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Flatten", ["g"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["n", 0])],
        [numpy_helper.from_array(weight, "w")],
    )
    source, bundle, target = tmp_path / "half.onnx", tmp_path / "half.rtool", tmp_path / "out.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    assert run(["onnx2torch", str(source), "-o", str(bundle)]) == 0
    assert run(["export", str(bundle), "-o", str(target)]) == 0
    assert onnxruntime.InferenceSession(target).run(None, {"x": np.ones((3, 3, 8, 8), np.float16)})[0].shape == (3, 4)
