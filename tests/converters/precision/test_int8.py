"""Quantised models are smaller, close, independent of neighbours, and calibrated on enough real images."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rtool.converters.exporting.reduced_precision import convert_to_int8, read_float32_nodes
from rtool.converters.exporting.step_log import StepLog
from rtool.converters.precision.int8 import check_slots, to_int8, unprofitable_nodes
from rtool.converters.precision.int8_compaction import compact_quantised
from rtool.converters.precision.int8_search import search_int8
from rtool.errors import GateError, InputError

SHAPE = (3, 12, 12)


def network(opset: int = 12) -> onnx.ModelProto:
    """Conv, Relu, global pooling, Gemm, at an opset below that of per-channel quantisation."""
    generator = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    nodes = [
        helper.make_node("Conv", ["x", "k1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "k2", "b2"], ["c2"], name="conv2"),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"], name="head", transB=1),
    ]
    weights = {
        "k1": weight(64, 3, 3, 3),
        "b1": weight(64),
        "k2": weight(64, 64, 3, 3),
        "b2": weight(64),
        "w": weight(16, 64),
        "b": weight(16),
    }
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)


def run(model: onnx.ModelProto, array: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": array})[0]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_a_quantised_model_is_small_and_close(method, capfd):
    model = network()
    before = model.SerializeToString()
    quantised = to_int8(model, images(16), method=method)
    assert model.SerializeToString() == before
    onnx.checker.check_model(quantised, full_check=True)
    assert quantised.ByteSize() <= 0.35 * model.ByteSize()
    assert cosine(run(model, images(8, 1)), run(quantised, images(8, 1))) >= 0.99
    assert [value.name for value in (*quantised.graph.input, *quantised.graph.output)] == ["x", "y"]
    assert capfd.readouterr().out == ""


def test_named_nodes_stay_in_float32():
    quantised = to_int8(network(), images(16), keep=["head"])
    gemm = next(node for node in quantised.graph.node if node.op_type == "Gemm")
    weights = {tensor.name: tensor.data_type for tensor in quantised.graph.initializer}
    assert weights[gemm.input[1]] == TensorProto.FLOAT


def test_embeddings_do_not_depend_on_their_neighbours():
    check_slots(to_int8(network(), images(16)), images(4))


def test_scales_that_span_the_batch_are_found():
    """What dynamic quantisation does: round to the largest value of the whole batch."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in "xy"]
    graph = helper.make_graph(nodes, "dynamic", shapes[:1], shapes[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rows = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    with pytest.raises(GateError, match="neighbours"):
        check_slots(model, rows)


def test_too_few_images_and_unknown_methods_are_refused():
    with pytest.raises(InputError, match="at least 16 images, got 3"):
        to_int8(network(), images(3))
    with pytest.raises(InputError, match="minmax"):
        to_int8(network(), images(16), method="minmx")


def test_a_gate_that_cannot_be_held_is_an_error():
    model, calibration = network(), images(16)
    log = StepLog((calibration,), (run(model, calibration),))
    with pytest.raises(GateError, match=r"with \d of 7 nodes in float32, must be >= 1\.1"):
        convert_to_int8(model, log, min_cosine=1.1)


def with_an_outlier() -> onnx.ModelProto:
    """Ten 1x1 layers; the sixth writes one channel 3000 times too large, which the seventh divides away again.

    A Clip between the two keeps equalisation from doing the same beforehand.
    """
    generator, width, layers, outlier = np.random.default_rng(0), 16, 10, 5
    nodes, weights, value = [helper.make_node("Conv", ["x", "k"], ["c"], name="stem")], [], "c"
    weights.append(numpy_helper.from_array(generator.standard_normal((width, 3, 3, 3)).astype(np.float32) / 5, "k"))
    for index in range(layers):
        kernel = generator.standard_normal((width, width, 1, 1)) * np.sqrt(2 / width)
        kernel[0] *= 3000 if index == outlier else 1
        kernel[:, 0] /= 3000 if index == outlier + 1 else 1
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"k{index}"))
        nodes.append(helper.make_node("Conv", [value, f"k{index}"], [f"c{index}"], name=f"conv{index}"))
        value = f"r{index}"
        bend = ("Clip", [f"c{index}", "zero", "huge"]) if index == outlier else ("Relu", [f"c{index}"])
        nodes.append(helper.make_node(*bend, [value], name=f"relu{index}"))
    weights += [numpy_helper.from_array(np.float32(number), name) for number, name in ((0, "zero"), (1e9, "huge"))]
    nodes += [helper.make_node("GlobalAveragePool", [value], ["p"], name="pool")]
    nodes += [helper.make_node("Flatten", ["p"], ["y"], name="flatten")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width])]
    graph = helper.make_graph(nodes, "outlier", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_layers_that_lose_the_gate_return_to_float32_and_the_list_gives_the_same_model_again():
    model, calibration = with_an_outlier(), images(16)
    assert cosine(run(model, calibration), run(to_int8(model, calibration), calibration)) < 0.9995
    found = search_int8(model, calibration, min_cosine=0.9995)
    assert cosine(run(model, calibration), run(found.model, calibration)) >= 0.9995
    assert {"conv5", "conv6"} <= set(found.float32_nodes)
    assert len(found.float32_nodes) <= 6
    again = to_int8(model, calibration, keep=found.float32_nodes)
    assert again.SerializeToString() == found.model.SerializeToString()
    assert search_int8(model, calibration, keep=found.float32_nodes, min_cosine=0.9995).trials == 1


def test_layers_too_small_to_gain_stay_in_float32_with_the_nodes_that_serve_them():
    """A channel gate: pooling, 1x1 to one channel, Relu, 1x1 back, Sigmoid."""
    model = network()
    squeeze, excite = np.ones((1, 64, 1, 1), np.float32), np.ones((64, 1, 1, 1), np.float32)
    model.graph.initializer.extend([numpy_helper.from_array(squeeze, "g1"), numpy_helper.from_array(excite, "g2")])
    gate = [
        helper.make_node("GlobalAveragePool", ["r2"], ["a"], name="mean"),
        helper.make_node("Conv", ["a", "g1"], ["b0"], name="squeeze"),
        helper.make_node("Relu", ["b0"], ["c0"], name="bend"),
        helper.make_node("Conv", ["c0", "g2"], ["d"], name="excite"),
        helper.make_node("Sigmoid", ["d"], ["e"], name="gate"),
        helper.make_node("Mul", ["r2", "e"], ["gated"], name="scale"),
    ]
    at = [node.name for node in model.graph.node].index("pool")
    model.graph.node[at].input[0] = "gated"
    for node in reversed(gate):
        model.graph.node.insert(at, node)
    assert unprofitable_nodes(model) == ["mean", "squeeze", "bend", "excite", "gate"]
    quantised = to_int8(model, images(16))
    types = {tensor.name: tensor.data_type for tensor in quantised.graph.initializer}
    small = [node for node in quantised.graph.node if node.name in ("squeeze", "excite")]
    assert [types.get(node.input[1]) for node in small] == [TensorProto.FLOAT, TensorProto.FLOAT]


def test_compaction_changes_the_size_but_not_the_outputs():
    model = to_int8(network(21), images(16))
    again = compact_quantised(model)
    assert again.ByteSize() == model.ByteSize()
    quantisers = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    weights = {tensor.name for tensor in model.graph.initializer}
    assert all(len(node.input) == 2 for node in quantisers if node.input[0] in weights)
    arrays = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    stored = [(array.dtype, array.shape, array.tobytes()) for array in arrays]
    assert len(set(stored)) == len(stored)
    np.testing.assert_allclose(
        ReferenceEvaluator(model).run(None, {"x": images(4, 1)})[0],
        run(network(), images(4, 1)),
        atol=0.1,  # int8's own error; a wrong default would be off by whole values
    )


def test_float32_nodes_are_read_from_a_manifest_or_a_list(tmp_path):
    (tmp_path / "list.json").write_text('["a", "b"]')
    (tmp_path / "m.json").write_text('{"kept_in_float32": [{"node": "a", "operator": "Conv", "reason": ""}]}')
    (tmp_path / "bad.json").write_text("{}")
    assert read_float32_nodes(tmp_path / "list.json") == ("a", "b")
    assert read_float32_nodes(tmp_path / "m.json") == ("a",)
    with pytest.raises(InputError, match="manifest or a JSON list"):
        read_float32_nodes(tmp_path / "bad.json")


def small_layers() -> onnx.ModelProto:
    """A layer of 12 weights, which int8 would make larger."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "k"], ["c"], name="tiny"),
            helper.make_node("Flatten", ["c"], ["y"], name="flat"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4 * 144])],
        [numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "k")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_model_with_nothing_to_gain_is_refused_rather_than_made_larger():
    with pytest.raises(InputError, match="no Conv or Gemm or MatMul of 100 weights or more is left"):
        to_int8(small_layers(), images(16))
    with pytest.raises(InputError, match="is left to quantise"):
        to_int8(network(), images(16), keep=["conv1", "conv2", "head"])


def test_a_node_to_keep_that_does_not_exist_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"no node named 'haed'.*head"):
        search_int8(network(), images(16), keep=["haed"])


def test_nodes_too_small_to_quantise_are_reported_apart_from_those_that_miss_the_gate():
    model = network()
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 64, 1, 1), np.float32), "g"))
    model.graph.node.insert(4, helper.make_node("Conv", ["r2", "g"], ["mask"], name="spatial"))
    model.graph.node.insert(5, helper.make_node("Mul", ["r2", "mask"], ["masked"], name="scale"))
    next(node for node in model.graph.node if node.name == "pool").input[0] = "masked"
    calibration = images(16)
    log = StepLog((calibration,), (run(model, calibration),))
    _, float32_nodes = convert_to_int8(model, log, min_cosine=0.9)
    assert [(entry.node, entry.operator, entry.reason) for entry in float32_nodes] == [
        ("spatial", "Conv", "int8 would make the file larger")
    ]
    assert "0 float32 nodes, 1 too small to gain" in log.steps[-1].detail


def test_slots_are_checked_with_fewer_images_than_the_fixed_batch():
    """Rounded to the largest value of the batch, by a file with a fixed batch of 32, checked with 8 images."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [32, 8]) for name in "xy"]
    graph = helper.make_graph(nodes, "dynamic", shapes[:1], shapes[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(GateError, match="neighbours"):
        check_slots(model, np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32))


@pytest.mark.parametrize("addend", ["initializer", "computed"])
def test_gemm_with_beta_adds_as_much_as_before(addend):
    """The quantiser itself sets beta to 1."""
    model = network(17)
    head = next(node for node in model.graph.node if node.name == "head")
    head.attribute.append(helper.make_attribute("beta", 4.0))
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "b")
    bias.CopyFrom(numpy_helper.from_array(np.full(16, 3.0, np.float32), "b"))
    if addend == "computed":
        at = [node.name for node in model.graph.node].index("head")
        model.graph.node.insert(at, helper.make_node("Neg", ["b"], ["minus"], name="neg"))
        next(node for node in model.graph.node if node.name == "head").input[2] = "minus"
    quantised = to_int8(model, images(16))
    np.testing.assert_allclose(run(quantised, images(4, 1)), run(model, images(4, 1)), atol=0.2)


@pytest.mark.parametrize("kind", ["Constant", "Identity", "Reshape"])
def test_a_model_whose_weights_are_not_initializers_can_be_quantised(kind):
    model = network(17)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "k2")
    model.graph.initializer.remove(weight)
    node = helper.make_node("Constant", [], ["k2"], name="weight", value=weight)
    if kind != "Constant":
        weight.name = "stored"
        shape = numpy_helper.from_array(np.array(weight.dims), "shape")
        model.graph.initializer.extend([weight, shape])
        inputs = ["stored", "shape"] if kind == "Reshape" else ["stored"]
        node = helper.make_node(kind, inputs, ["k2"], name="weight")
    model.graph.node.insert(0, node)
    quantised = to_int8(model, images(16), keep=["weight"] if kind != "Reshape" else [])
    assert cosine(run(model, images(8, 1)), run(quantised, images(8, 1))) >= 0.99
    if kind != "Reshape":  # computed weights are quantised as activations are: where they are read
        assert quantised.ByteSize() <= 0.5 * model.ByteSize()
