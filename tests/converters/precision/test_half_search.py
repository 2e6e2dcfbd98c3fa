"""A network built to overflow is repaired with few nodes in float32; what cannot be repaired is refused."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rtool.converters import search_half, to_half
from rtool.converters.precision import half_search
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


def run_half(model: onnx.ModelProto) -> np.ndarray:
    """The outputs of a float16 model whose node outputs are all rounded, computed in NumPy."""
    return np.asarray(ReferenceEvaluator(model).run(None, {"x": inputs()})[0], np.float32)


@np.errstate(all="ignore")
def cosine(model: onnx.ModelProto, reference: onnx.ModelProto) -> float:
    a, b = run_half(reference), run_half(model)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def test_a_network_within_range_needs_no_float32_nodes():
    result = search_half(deep_network({}), [inputs()])
    assert result.float32_nodes == ()
    assert result.trials == 1


def test_an_overflowing_network_is_repaired_with_few_nodes_in_float32():
    model = deep_network({12: 3e4})
    assert not cosine(to_half(model).model, model) >= 0.9999
    result = search_half(model, [inputs()])
    assert cosine(result.half.model, model) >= 0.9999
    assert set(result.float32_nodes) == {"matmul12", "relu12", "matmul13"}
    assert len(result.float32_nodes) <= 0.1 * len(model.graph.node)


def test_the_reference_is_the_given_model_not_the_prepared_one(monkeypatch):
    def wrong(model: onnx.ModelProto) -> onnx.ModelProto:
        other = onnx.ModelProto()
        other.CopyFrom(model)
        other.graph.initializer[3].CopyFrom(numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32), "w3"))
        return other

    monkeypatch.setattr(half_search, "prepare_for_half", wrong)
    with pytest.raises(GateError, match="min cosine"):
        search_half(deep_network({}, layers=5), [inputs()])


def test_the_saved_list_gives_the_same_model_again():
    model = deep_network({12: 3e4})
    result = search_half(model, [inputs()])
    again = to_half(model, keep=result.float32_nodes)
    assert again.model.SerializeToString() == result.half.model.SerializeToString()
    assert search_half(model, [inputs()], keep=result.float32_nodes).trials == 1


def test_lost_precision_without_overflow_is_found_block_by_block():
    """Two large terms cancel: nothing overflows, but rounding destroys the difference."""
    model = deep_network({})
    middle = next(node for node in model.graph.node if node.name == "relu14")
    middle.input[0] = "reduced"
    offset = numpy_helper.from_array(np.float32(20000), "offset")
    model.graph.initializer.append(offset)
    at = list(model.graph.node).index(middle)
    model.graph.node.insert(at, helper.make_node("Sub", ["raised", "offset"], ["reduced"], name="sub"))
    model.graph.node.insert(at, helper.make_node("Add", ["m14", "offset"], ["raised"], name="add"))
    result = search_half(model, [inputs()])
    assert cosine(result.half.model, model) >= 0.9999
    assert {"add", "sub"} <= set(result.float32_nodes)
    assert len(result.float32_nodes) <= 4


def test_what_cannot_be_repaired_is_refused_with_the_numbers():
    model = deep_network(dict.fromkeys(range(0, 30, 2), 100000.0))
    with pytest.raises(GateError, match=r"30 of 60 nodes returned to float32, must be >= 0\.9999 with at most 10%"):
        search_half(model, [inputs()])


def network_of(nodes, weights, batch: str | int = "n") -> onnx.ModelProto:
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, WIDTH]) for name in "xy"]
    tensors = [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", shapes[:1], shapes[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def squared(layers: int, norms: int = 0, batch: str | int = "n") -> onnx.ModelProto:
    """x*x overflows and its root does not; then unit gain, with norms that a rule keeps in float32."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="matmul"),
        helper.make_node("Mul", ["a", "a"], ["s"], name="square"),
        helper.make_node("Sqrt", ["s"], ["v0"], name="root"),
    ]
    for index in range(layers):
        last = "y" if index == layers - 1 else f"v{index + 1}"
        if index < norms:
            nodes.append(helper.make_node("ReduceL2", [f"v{index}"], [f"n{index}"], axes=[1], name=f"norm{index}"))
            nodes.append(helper.make_node("Div", [f"v{index}", f"n{index}"], [last], name=f"div{index}"))
        else:
            nodes.append(helper.make_node("Relu", [f"v{index}"], [last], name=f"relu{index}"))
    return network_of(nodes, {"w": 30 * np.random.default_rng(0).standard_normal((WIDTH, WIDTH))}, batch)


def test_a_small_network_may_keep_a_few_nodes_beyond_a_tenth():
    result = search_half(squared(3), [inputs()])
    assert result.float32_nodes == ("square", "root")


@pytest.mark.parametrize("batch", ["n", 1, 3, 16])
def test_an_image_that_overflows_is_found_behind_the_first_batch(batch):
    images = 1e-3 * inputs()
    images[5] *= 1e3
    result = search_half(squared(3, batch=batch), [images])
    assert result.float32_nodes == ("square", "root")
    assert result.parity.min_cosine >= 0.9999


def test_a_list_with_the_nodes_a_rule_keeps_gives_the_same_model_however_many_they_are():
    model = squared(20, norms=16)
    first = search_half(model, [inputs()])
    listed = [entry.node for entry in first.half.float32_nodes]
    assert {"square", "root", "norm0"} <= set(listed)
    assert len(listed) > 0.1 * len(model.graph.node)
    again = search_half(model, [inputs()], keep=listed)
    assert again.half == first.half
    assert again.trials == 1


def test_nodes_that_are_not_the_networks_stay_in_float32_and_do_not_count():
    model = deep_network({}, layers=5)
    added = [node.name for node in model.graph.node][:5]
    assert search_half(model, [inputs()], uncounted=added).float32_nodes == ()
    with pytest.raises(GateError, match="5 of 10 nodes"):
        search_half(model, [inputs()], keep=added)


def test_the_search_ignores_aliases_and_constants():
    """Exports are full of Identities: the search must not name what the conversion removes."""
    model = deep_network({12: 3e4})
    for index, node in enumerate(list(model.graph.node)):
        if node.op_type == "Relu" and node.output[0] != "y":
            alias = helper.make_node("Identity", [node.output[0]], [f"alias{index}"], name=f"identity{index}")
            model.graph.node.insert(list(model.graph.node).index(node) + 1, alias)
            for reader in model.graph.node:
                if reader.op_type == "MatMul" and reader.input[0] == node.output[0]:
                    reader.input[0] = alias.output[0]
    result = search_half(model, [inputs()])
    assert set(result.float32_nodes) == {"matmul12", "relu12", "matmul13"}


def test_an_overflow_inside_a_branch_returns_the_whole_if_to_float32():
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("up_out", "down_out")]
    up = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "big"], ["raised"], name="raise"),
            helper.make_node("Div", ["raised", "big"], ["up_out"], name="lower"),
        ],
        "up",
        [],
        shape[:1],
    )
    down = helper.make_graph([helper.make_node("Neg", ["x"], ["down_out"], name="negate")], "down", [], shape[1:])
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0, name="max"),
        helper.make_node("Greater", ["m", "zero"], ["c"], name="greater"),
        helper.make_node("If", ["c"], ["b"], name="if", then_branch=up, else_branch=down),
        helper.make_node("Relu", ["b"], ["y"], name="relu"),
    ]
    result = search_half(network_of(nodes, {"big": 60000, "zero": 0}), [inputs()])
    assert result.float32_nodes == ("if",)
    assert set(result.half.returned) == {"if", "raise", "lower", "negate"}
