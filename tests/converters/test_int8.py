"""Quantised models are smaller, close, independent of neighbours, and calibrated on enough real images."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.converters.export_steps import StepLog
from rtool.converters.int8 import check_slots, to_int8
from rtool.converters.narrowing import narrow_to_int8, read_kept_nodes
from rtool.errors import GateError, InputError

SHAPE = (3, 12, 12)


def network(opset: int = 12) -> onnx.ModelProto:
    """Conv, Relu, global pooling, Gemm; at an opset below what quantisation per channel needs."""
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
    kept = next(node for node in quantised.graph.node if node.op_type == "Gemm")
    weights = {tensor.name: tensor.data_type for tensor in quantised.graph.initializer}
    assert weights[kept.input[1]] == TensorProto.FLOAT


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
    with pytest.raises(GateError, match=r"'int8'.*>= 1\.1"):
        narrow_to_int8(model, log, min_cosine=1.1)


def test_kept_nodes_are_read_from_a_manifest_or_a_list(tmp_path):
    (tmp_path / "list.json").write_text('["a", "b"]')
    (tmp_path / "m.json").write_text('{"kept_in_float32": [{"node": "a", "operator": "Conv", "reason": ""}]}')
    (tmp_path / "bad.json").write_text("{}")
    assert read_kept_nodes(tmp_path / "list.json") == ("a", "b")
    assert read_kept_nodes(tmp_path / "m.json") == ("a",)
    with pytest.raises(InputError, match="manifest or a JSON list"):
        read_kept_nodes(tmp_path / "bad.json")
