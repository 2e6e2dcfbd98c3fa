"""16-bit files: rewritten as they are, trained from an upcast, exported back. Oracles: onnx.reference, NumPy."""

import json

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import rtool
from rtool.converters.bundles.reference import load_model
from rtool.converters.files.model_file import ModelFile
from rtool.converters.precision.upcast import came_in, half_type, upcast
from rtool.converters.runtime.half_rounding import half_bound
from rtool.converters.runtime.runners import OnnxRunner

TYPES = {"float16": (TensorProto.FLOAT16, np.float16, 10), "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16, 16)}
RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "w": RANDOM.standard_normal((6, 3, 3, 3)) * 0.2,
    "b": RANDOM.standard_normal(6),
    "f": RANDOM.standard_normal((6, 4)),
}
IMAGES = RANDOM.standard_normal((3, 3, 8, 6)).astype(np.float32)


def half_file(path, dtype: str, *, io: bool, batch: str | int = "N"):
    """Conv, Relu, mean, MatMul in 16 bits; with float32 inputs and outputs by Casts unless `io`."""
    kind, numpy_type, _ = TYPES[dtype]
    outside = kind if io else TensorProto.FLOAT
    nodes = [
        helper.make_node("Conv", ["x16", "w", "b"], ["c"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["e"], name="flatten"),
        helper.make_node("MatMul", ["e", "f"], ["y16"], name="fc"),
        helper.make_node("Cast", ["y16"], ["y"], name="out", to=outside),
    ]
    nodes.insert(0, helper.make_node("Cast", ["x"], ["x16"], name="in", to=kind))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", outside, [batch, 3, 8, 6])],
        [helper.make_tensor_value_info("y", outside, [batch, 4])],
        [numpy_helper.from_array(array.astype(numpy_type), name) for name, array in WEIGHTS.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), path)
    return path


def exact(dtype: str) -> np.ndarray:
    """The network in float64 on the rounded weights."""
    cast = [array.astype(TYPES[dtype][1]).astype(np.float64) for array in WEIGHTS.values()]
    w, b, f = (torch.from_numpy(array) for array in cast)
    pixels = torch.from_numpy(IMAGES.astype(TYPES[dtype][1]).astype(np.float64))
    return (torch.conv2d(pixels, w, b).relu().mean((2, 3)) @ f).numpy()


def relative(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(got.astype(np.float64) - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("io", [True, False])
@pytest.mark.parametrize("dtype", TYPES)
def test_an_upcast_has_the_same_weights_and_rounds_nothing(tmp_path, dtype, io):
    file = ModelFile.read(half_file(tmp_path / "h.onnx", dtype, io=io))
    known = half_type(file.outline)
    assert (known.dtype, known.io) == (dtype, io)
    wide = upcast(file)
    assert half_type(wide.outline) is None
    assert half_bound(wide.outline) is None
    rounded = IMAGES.astype(TYPES[dtype][1]).astype(np.float32)
    assert relative(ReferenceEvaluator(wide.proto()).run(None, {"x": rounded})[0], exact(dtype)) < 1e-6
    for tensor in wide.outline.graph.initializer:
        stored = WEIGHTS[tensor.name].astype(TYPES[dtype][1])
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), stored.astype(np.float32))


@pytest.mark.parametrize("io", [True, False])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_bundle_is_float32_and_its_export_goes_back(tmp_path, dtype, io):
    path = half_file(tmp_path / "h.onnx", dtype, io=io)
    result = rtool.onnx2torch(path, tmp_path / "h.rtool")
    assert result.upcast_from == dtype
    model = load_model(tmp_path / "h.rtool")
    assert came_in(model.chain).dtype == dtype
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float32}
    back = rtool.export(tmp_path / "h.rtool", tmp_path / "back.onnx")
    graph = onnx.load(tmp_path / "back.onnx").graph
    kind = TYPES[dtype][0]
    assert {tensor.data_type for tensor in graph.initializer} == {kind}
    assert graph.input[0].type.tensor_type.elem_type == (kind if io else TensorProto.FLOAT)
    assert dtype in back.upcast
    assert json.loads(back.manifest.read_text())["upcast"] == back.upcast
    stays = rtool.export(tmp_path / "h.rtool", tmp_path / "wide.onnx", fp32=True)
    assert half_type(onnx.load(stays.path)) is None


@pytest.mark.parametrize("io", [True, False])
@pytest.mark.parametrize("dtype", TYPES)
def test_steps_that_train_nothing_keep_the_stored_weights(tmp_path, dtype, io):
    path = half_file(tmp_path / "h.onnx", dtype, io=io, batch=2)
    result = rtool.export(path, tmp_path / "d.onnx", batch="dynamic")
    before, after = onnx.load(path).graph, onnx.load(result.path).graph
    assert [t.raw_data for t in after.initializer] == [t.raw_data for t in before.initializer]
    assert [step.name for step in result.steps][:2] == ["source", "batch"]
    assert result.upcast is None
    runner = OnnxRunner(result.path)
    got = runner.run(IMAGES.astype(runner.inputs[0].dtype))[0]
    assert relative(got, exact(dtype)) <= half_bound(onnx.load(path))


@pytest.mark.parametrize("dtype", TYPES)
def test_pixels_go_into_a_16_bit_graph(tmp_path, dtype):
    path = half_file(tmp_path / "h.onnx", dtype, io=True)
    size = rtool.converters.Preprocessing(height=8, width=6)
    rtool.export(path, tmp_path / "p.onnx", embed_preprocessing=True, preprocessing=size)
    pixels = RANDOM.integers(0, 256, (3, 8, 6, 3), dtype=np.uint8)
    runner, network = OnnxRunner(tmp_path / "p.onnx"), OnnxRunner(path)
    assert runner.inputs[0].dtype == "uint8"
    wanted = network.run(size.normalise(pixels).astype(network.inputs[0].dtype))[0].astype(np.float64)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert relative(runner.run(pixels)[0], wanted) <= half_bound(onnx.load(path))


def test_parity_of_a_16_bit_file_is_held_to_its_rounding(tmp_path):
    path = half_file(tmp_path / "h.onnx", "float16", io=True)
    rtool.onnx2torch(path, tmp_path / "h.rtool")
    report = rtool.bench.parity(path, tmp_path / "h.rtool")
    # Seven values are rounded one after the other: the Cast, Conv, Relu, pool, Flatten, MatMul and the last Cast.
    assert report.passed
    assert report.max_rel == pytest.approx(np.sqrt(7) * np.finfo(np.float16).eps)
