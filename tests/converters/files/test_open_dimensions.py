"""Dimensions stored as -1 or 0 are open, in every command; the oracle is ONNX Runtime, which takes any batch there."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import rtool
from rtool.converters import onnx_to_torch, set_batch
from rtool.converters.files.model_file import ModelFile
from rtool.converters.files.open_dimensions import has_misstated_dimensions
from rtool.converters.runtime.runners import OnnxRunner
from rtool.serving.repository.signatures.reading import read_signature

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.standard_normal((4, 3, 3, 3)).astype(np.float32)
IMAGES = RANDOM.standard_normal((5, 3, 8, 6)).astype(np.float32)


def network(images, outputs) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["c"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["e"], name="flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, images)],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, outputs)],
        [numpy_helper.from_array(WEIGHT, "w")],
        value_info=[helper.make_tensor_value_info("g", TensorProto.FLOAT, [outputs[0], 4, 1, 1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def expected() -> np.ndarray:
    session = ort.InferenceSession(network(["N", 3, 8, 6], ["N", 4]).SerializeToString())
    return session.run(None, {"x": IMAGES})[0]


@pytest.mark.parametrize(
    ("images", "outputs"),
    [([-1, 3, 8, 6], [-1, 4]), ([-7, 3, -1, -1], [-7, 4]), ([0, 3, 8, 6], [0, 4]), ([-1, 3, 0, 0], [-1, 4])],
)
def test_a_misstated_dimension_is_open_from_loading_on(tmp_path, images, outputs):
    path = tmp_path / "x.onnx"
    proto = network(images, outputs)
    onnx.save(proto, path)
    module = onnx_to_torch(path)
    import torch

    with torch.no_grad():
        got = module(torch.from_numpy(IMAGES)).numpy()
    np.testing.assert_allclose(got, expected(), rtol=1e-5, atol=1e-6)
    for runner in (OnnxRunner(path), OnnxRunner(proto), OnnxRunner(path.read_bytes())):
        assert runner.batch is None
        np.testing.assert_array_equal(runner.run(IMAGES)[0], expected())
    assert read_signature(path).batch is None
    assert rtool.inspect(path).batch == "dynamic"
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == images[0], "the argument is not changed"


def test_export_and_set_batch_take_the_file_as_dynamic(tmp_path):
    path = tmp_path / "x.onnx"
    onnx.save(network([-1, 3, 8, 6], [-1, 4]), path)
    rtool.export(path, tmp_path / "same.onnx")
    rtool.export(path, tmp_path / "four.onnx", batch=4)
    assert OnnxRunner(tmp_path / "four.onnx").batch == 4
    for name in ("x.onnx", "same.onnx"):
        np.testing.assert_array_equal(OnnxRunner(tmp_path / name).run(IMAGES)[0], expected())
    fixed = set_batch(network([-1, 3, 8, 6], [-1, 4]), 5)
    np.testing.assert_array_equal(OnnxRunner(fixed).run(IMAGES)[0], expected())


def test_a_zero_that_is_no_image_axis_is_the_size_of_an_empty_tensor():
    empty = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 0, 4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 0, 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [empty], [result])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert not has_misstated_dimensions(proto)
    dims = ModelFile.of(proto).outline.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [2, 0, 4]
