"""A network built to overflow is repaired with few nodes in float32; what cannot be repaired is refused."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rtool.converters import search_half, to_half
from rtool.errors import GateError

WIDTH = 16


def deep_network(scales: dict[int, float], layers: int = 30) -> onnx.ModelProto:
    """Alternating MatMul and Relu of unit gain; layer i multiplies by scales[i], the next one divides by it."""
    generator = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for index in range(layers):
        weight = generator.standard_normal((WIDTH, WIDTH)) * np.sqrt(2 / WIDTH)
        weight *= scales.get(index, 1.0) / scales.get(index - 1, 1.0)
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"w{index}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [f"m{index}"], name=f"matmul{index}"))
        value = "y" if index == layers - 1 else f"r{index}"
        nodes.append(helper.make_node("Relu", [f"m{index}"], [value], name=f"relu{index}"))
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in "xy"]
    graph = helper.make_graph(nodes, "deep", shapes[:1], shapes[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def inputs() -> np.ndarray:
    return 20 * np.random.default_rng(1).standard_normal((8, WIDTH)).astype(np.float32)


def run_narrow(model: onnx.ModelProto) -> np.ndarray:
    """What a float16 model gives when every node's output really is rounded, node by node in NumPy."""
    return np.asarray(ReferenceEvaluator(model).run(None, {"x": inputs()})[0], np.float32)


@np.errstate(all="ignore")
def cosine(model: onnx.ModelProto, reference: onnx.ModelProto) -> float:
    a, b = run_narrow(reference), run_narrow(model)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def test_a_sound_network_keeps_nothing():
    result = search_half(deep_network({}), [inputs()])
    assert result.kept == ()
    assert result.trials == 1


def test_an_overflowing_network_is_repaired_with_few_nodes_in_float32():
    model = deep_network({12: 3e4})
    assert not cosine(to_half(model).model, model) >= 0.9999
    result = search_half(model, [inputs()])
    assert cosine(result.half.model, model) >= 0.9999
    assert set(result.kept) == {"matmul12", "relu12", "matmul13"}
    assert len(result.kept) <= 0.1 * len(model.graph.node)


def test_the_saved_list_gives_the_same_model_again():
    model = deep_network({12: 3e4})
    result = search_half(model, [inputs()])
    again = to_half(model, keep=result.kept)
    assert again.model.SerializeToString() == result.half.model.SerializeToString()
    assert search_half(model, [inputs()], keep=result.kept).trials == 1


def test_lost_precision_without_overflow_is_found_block_by_block():
    """Two large terms cancel: nothing overflows, but the difference drowns in rounding."""
    model = deep_network({})
    middle = next(node for node in model.graph.node if node.name == "relu14")
    middle.input[0] = "narrowed"
    offset = numpy_helper.from_array(np.float32(20000), "offset")
    model.graph.initializer.append(offset)
    at = list(model.graph.node).index(middle)
    model.graph.node.insert(at, helper.make_node("Sub", ["raised", "offset"], ["narrowed"], name="sub"))
    model.graph.node.insert(at, helper.make_node("Add", ["m14", "offset"], ["raised"], name="add"))
    result = search_half(model, [inputs()])
    assert cosine(result.half.model, model) >= 0.9999
    assert {"add", "sub"} <= set(result.kept)
    assert len(result.kept) <= 4


def test_what_cannot_be_repaired_is_refused_with_the_numbers():
    model = deep_network(dict.fromkeys(range(0, 30, 2), 100000.0))
    with pytest.raises(GateError, match=r"nodes in float32, must be >= 0\.9999 with at most 10%"):
        search_half(model, [inputs()])
