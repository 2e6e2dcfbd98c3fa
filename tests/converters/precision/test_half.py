"""fp16 and bf16 models keep their numbers and names; what is asked for stays in float32."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

from rtool.converters.precision.half import to_half
from rtool.converters.runtime.half_emulation import emulate_half
from rtool.errors import InputError

from .half_models import FLOAT, HALF, exported, large_weight, model_of, network, operators, run, values, weight_types


def test_a_plain_network_gets_one_cast_in_and_one_out():
    model = exported(network(), 2, 3, 16, 16)
    result = to_half(model)
    assert result.casts == 2
    assert not result.float32_nodes
    assert operators(result.model)[0] == operators(result.model)[-1] == "Cast"
    assert {tensor.data_type for tensor in result.model.graph.initializer if tensor.data_type != TensorProto.INT64} == {
        HALF
    }
    assert to_half(model, keep_io_types=False).casts == 0


def test_named_nodes_stay_in_float32():
    model = exported(network(), 2, 3, 16, 16)
    relu = next(node.name for node in model.graph.node if node.op_type == "Relu")
    result = to_half(model, keep=[relu])
    assert [(entry.node, entry.reason) for entry in result.float32_nodes] == [(relu, "requested")]
    assert result.casts == 4
    with pytest.raises(InputError, match="no node named 'nothing'"):
        to_half(model, keep=["nothing"])


def test_weights_are_rounded_never_clipped():
    model = large_weight()
    result = to_half(model)
    assert [entry.node for entry in result.float32_nodes] == ["big_mul"]
    assert "exceeds 65504" in result.float32_nodes[0].reason
    big = next(tensor for tensor in result.model.graph.initializer if tensor.name == "big")
    assert np.array_equal(numpy_helper.to_array(big), np.float32([1e5, 2e5, 3e5]))


def test_weights_that_underflow_to_zero_are_counted():
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    model = model_of(nodes, [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3])], {"w": np.float32([1e-9, 0, 1])})
    assert to_half(model).flushed == 1


def test_bfloat16_converts_what_the_opset_allows():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Conv", ["m", "k"], ["y"])]
    weights = {"w": values(4, 4), "k": values(1, 1, 1, 1)}
    model = model_of(nodes, [("x", FLOAT, [1, 1, 4, 4])], [("y", FLOAT, [1, 1, 4, 4])], weights)
    result = to_half(model, dtype="bfloat16").model
    types = {tensor.name: tensor.data_type for tensor in result.graph.initializer}
    assert types == {"w": TensorProto.BFLOAT16, "k": FLOAT}  # Conv accepts bfloat16 from opset 22 on


def test_a_bfloat16_file_computes_what_its_emulation_does():
    """ONNX Runtime has no bfloat16 Conv on CPU; the reference evaluator runs the file in bfloat16."""
    model = version_converter.convert_version(exported(network(), 2, 3, 16, 16), 22)
    result = to_half(model, dtype="bfloat16").model
    assert weight_types(result) == {TensorProto.BFLOAT16}
    inputs = values(2, 3, 16, 16)
    computed = np.asarray(ReferenceEvaluator(result).run(None, {model.graph.input[0].name: inputs})[0], np.float32)
    imitated, exact = run(emulate_half(result), inputs)[0], run(model, inputs)[0]
    scale = np.abs(exact).max()
    # Each rounds five values to 8 bits, in its own order of summation: steps of 2**-8 at the most.
    assert np.abs(computed - imitated).max() <= 2**-7 * scale
    assert 0 < np.abs(imitated - exact).max() <= 2**-6 * scale


def test_identities_and_constants_may_stand_in_a_list_of_nodes_to_keep():
    nodes = [
        helper.make_node("Constant", [], ["c"], value_float=2.0, name="constant"),
        helper.make_node("Identity", ["x"], ["same"], name="identity"),
        helper.make_node("Mul", ["same", "c"], ["y"], name="mul"),
    ]
    model = model_of(nodes, [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3])])
    result = to_half(model, keep=["identity", "constant", "mul"])
    assert result.returned == ("mul",)
    plain = to_half(model)
    assert (operators(plain.model), plain.casts) == (["Cast", "Mul", "Cast"], 2)


def test_names_in_the_graph_are_never_used_twice():
    nodes = [
        helper.make_node("Relu", ["x"], ["x_float16"], name="Cast_x_float16"),
        helper.make_node("Add", ["x_float16", "w"], ["a"], name="wide"),
        helper.make_node("Add", ["a", "w"], ["b"], name="converted"),
        helper.make_node("Add", ["b", "w_float"], ["c"], name="other"),
        helper.make_node("Add", ["c", "w_float16"], ["y"], name="last"),
    ]
    weights = {name: values(3, seed=seed) for seed, name in enumerate(("w", "w_float", "w_float16"))}
    model = model_of(nodes, [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3])], weights)
    result = to_half(model, keep=["wide"]).model
    names = [node.name for node in result.graph.node]
    assert len(set(names)) == len(names)
    inputs = values(2, 3)
    assert np.abs(run(result, inputs)[0] - run(model, inputs)[0]).max() <= 5e-3


@pytest.mark.parametrize("keep_io_types", [True, False])
def test_a_weight_that_is_an_output_keeps_its_name(keep_io_types):
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"]), helper.make_node("Add", ["x", "w"], ["z"], name="add")]
    outputs = [("y", FLOAT, [2, 3]), ("w", FLOAT, [3]), ("z", FLOAT, [2, 3])]
    model = model_of(nodes, [("x", FLOAT, [2, 3])], outputs, {"w": values(3)})
    result = to_half(model, keep_io_types=keep_io_types, keep=["add"]).model
    kind = FLOAT if keep_io_types else HALF
    assert [(value.name, value.type.tensor_type.elem_type) for value in result.graph.output] == [
        (name, kind) for name in "ywz"
    ]
    assert np.abs(run(result, values(2, 3))[1] - values(3)).max() <= (0 if keep_io_types else 2e-3)
