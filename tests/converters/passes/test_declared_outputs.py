"""A file that declares other output shapes than it computes is exported with the computed ones."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import rtool
from rtool.cli.main import run
from rtool.converters.passes.declared_outputs import state_computed_outputs


def network(batch="N", declared=("N", 4), inner=None, size=(16, 8)):
    """Images to 4 numbers each; `declared` is what the file says of its output, `inner` of a value inside."""
    values = np.random.default_rng(0).standard_normal
    weights = [numpy_helper.from_array(values((4, 3, 3, 3)).astype(np.float32), "w")]
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["e"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, *size])
    embedding = helper.make_tensor_value_info("e", TensorProto.FLOAT, declared)
    infos = [] if inner is None else [helper.make_tensor_value_info("p", TensorProto.FLOAT, inner)]
    graph = helper.make_graph(nodes, "g", [images], [embedding], weights, value_info=infos)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def stated(model):
    return [
        [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in output.type.tensor_type.shape.dim]
        for output in model.graph.output
    ]


@pytest.mark.parametrize(
    ("batch", "declared", "computed"),
    [
        ("N", ("N", 4), ["N", 4]),
        ("N", ("other", "d"), ["other", "d"]),
        ("N", (1, 512), ["N", 4]),
        ("N", (1, 4), ["N", 4]),
        (2, (1, 4), [2, 4]),
        (2, (2, 5), [2, 4]),
        ("N", ("N", 4, 1, 1), ["N", 4]),
        ("N", (), ["N", 4]),
    ],
)
def test_sizes_that_are_not_computed_are_replaced(batch, declared, computed):
    model = network(batch, declared)
    before = model.SerializeToString()
    changed = state_computed_outputs(model, [np.zeros((6, 3, 16, 8))], [np.zeros((6, 4))])
    assert stated(model) == [computed]
    assert bool(changed) == (list(declared) != computed) == (model.SerializeToString() != before)


def test_a_size_that_follows_an_open_one_is_left_open():
    model = network(declared=("N", 7), size=("h", "w"))
    state_computed_outputs(model, [np.zeros((6, 3, 16, 8))], [np.zeros((6, 4))])
    assert stated(model) == [["N", ""]]


@pytest.mark.parametrize("steps", [[], ["--embed-preprocessing"], ["--fp16"], ["--batch", "dynamic"]])
@pytest.mark.parametrize("batch", ["N", 2])
def test_every_step_takes_such_a_file(tmp_path, batch, steps, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(network(batch, (1, 5), inner=(9, 9, 9, 9)), "m.onnx")
    assert run(["export", "m.onnx", "-o", "o.onnx", "--preprocessing", "imagenet", *steps]) == 0
    made = onnx.load("o.onnx")
    onnx.checker.check_model(made, full_check=True)
    (image,), rows = made.graph.input, 2
    shape = [dim.dim_value or rows for dim in image.type.tensor_type.shape.dim]
    kind = np.uint8 if steps == ["--embed-preprocessing"] else np.float32
    (output,) = ort.InferenceSession("o.onnx").run(None, {"images": np.zeros(shape, kind)})
    assert [said if isinstance(said, int) else rows for said in stated(made)[0]] == list(output.shape) == [rows, 4]


def test_a_file_that_declares_what_it_computes_is_written_back_byte_for_byte(tmp_path):
    onnx.save(network(), tmp_path / "m.onnx")
    rtool.export(tmp_path / "m.onnx", tmp_path / "o.onnx")
    source, made = onnx.load(tmp_path / "m.onnx"), onnx.load(tmp_path / "o.onnx")
    assert source.graph == made.graph


@pytest.mark.parametrize(
    ("nodes", "outputs", "message"),
    [
        ([("Relu", ["images"], ["y"])], ["y", "images"], "the image input 'images' is an output too"),
        ([("Shape", ["w"], ["y"])], ["y"], "no node reads the image input 'images'"),
    ],
)
def test_pixels_are_not_embedded_where_the_image_goes_elsewhere(nodes, outputs, message):
    made = [helper.make_node(*node) for node in nodes]
    kind = (TensorProto.INT64, [2]) if nodes[0][0] == "Shape" else (TensorProto.FLOAT, ["N", 3, 16, 8])
    values = [helper.make_tensor_value_info(name, *kind) for name in outputs]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 16, 8])
    weights = [numpy_helper.from_array(np.ones((4, 3), np.float32), "w")]
    graph = helper.make_graph(made, "g", [images], values, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(rtool.errors.InputError, match=message):
        rtool.converters.embed_preprocessing(model, rtool.converters.Preprocessing(16, 8))


def test_only_matrices_of_floats_become_unit_vectors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = network()
    model.graph.node.append(helper.make_node("ArgMax", ["e"], ["best"], axis=1))
    model.graph.output.append(helper.make_tensor_value_info("best", TensorProto.INT64, ["N", 1]))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, "m.onnx")
    assert run(["export", "m.onnx", "-o", "o.onnx", "--preprocessing", "imagenet", "--embed-preprocessing"]) == 0
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 8, 3), dtype=np.uint8)
    rows, best = ort.InferenceSession("o.onnx").run(None, {"images": pixels})
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(best, rows.argmax(axis=1, keepdims=True))
