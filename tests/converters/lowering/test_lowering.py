"""The registry of operators is complete and consistent; shape numbers and fused patterns are exact."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from rtool.converters import onnx_to_torch, ops
from rtool.converters.lowering.registry import REGISTRY, Lowering, Registry
from rtool.converters.records.record import require_record
from rtool.errors import InputError, UnsupportedOperatorsError


def model(nodes, inputs, initializers=(), opset=17, outputs=("y",)):
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(initializers).items()]
    graph = helper.make_graph(nodes, "g", infos, results, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_every_row_covers_the_newest_schema_of_its_opsets():
    for row in REGISTRY.rows():
        if row.domain:
            continue
        last = onnx.defs.onnx_opset_version() if row.until is None else row.until - 1
        assert not isinstance(REGISTRY.find(row.operator, last), str), row.operator


def test_overlapping_opsets_are_a_programming_error():
    registry = Registry()
    registry.add(Lowering("Foo", 1, 7, 6, False, function=lambda op: None))
    registry.add(Lowering("Foo", 7, None, 7, False, function=lambda op: None))
    with pytest.raises(ValueError, match="overlap"):
        registry.add(Lowering("Foo", 9, None, 9, False, function=lambda op: None))


def test_an_opset_newer_than_known_is_refused():
    newest = onnx.defs.onnx_opset_version() + 1
    with pytest.raises(UnsupportedOperatorsError, match="newer than the newest known"):
        onnx_to_torch(model([helper.make_node("Relu", ["x"], ["y"])], {"x": [1]}, opset=newest))


def test_the_printed_table_joins_ranges_without_a_gap():
    rows = {row.operator: row for row in ops().operators if row.domain == "ai.onnx"}
    assert len(rows) > 150
    assert rows["PRelu"].opsets == f"1-{onnx.defs.onnx_opset_version()}"
    assert rows["Conv"].trainable
    assert not rows["Relu"].trainable


def test_matmul_and_add_become_one_linear_layer():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], name="/fc/MatMul")]
    nodes.append(helper.make_node("Add", ["b", "a"], ["y"], name="/fc/Add"))
    weights = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float32)}
    module = onnx_to_torch(model(nodes, {"x": ["N", 4, 2]}, weights))
    layer = module.get_submodule("fc")
    assert isinstance(layer, nn.Linear)
    assert torch.equal(layer.weight, torch.from_numpy(weights["w"].T))
    assert require_record(module).nodes["fc"] == ("/fc/MatMul", "/fc/Add")


def test_a_pattern_whose_inner_value_has_another_reader_is_not_fused():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Add", ["a", "b"], ["y"])]
    weights = {"w": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)}
    module = onnx_to_torch(model(nodes, {"x": [1, 2]}, weights, outputs=("y", "a")))
    y, a = module(torch.ones(1, 2))
    assert y.tolist() == [[3, 3, 3]]
    assert a.tolist() == [[2, 2, 2]]


@pytest.mark.parametrize("opset", [11, 17])
def test_layer_norm_and_gelu_formulas_become_their_layers(exported, opset):
    module = onnx_to_torch(exported("vit", "ts", opset)[1])
    assert sum(isinstance(layer, nn.LayerNorm) for layer in module.modules()) == 4
    targets = [node.target for node in module.graph.nodes]
    assert targets.count(nn.functional.gelu) == 2
    assert targets.count(nn.functional.scaled_dot_product_attention) == 2


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    split=st.integers(0, 3),
    batch=st.integers(1, 3),
)
def test_shape_chains_give_the_shape_they_compute(shape, split, batch):
    """Shape -> Slice -> Concat with -1 -> Reshape, at every cut and batch."""
    cut = min(split, len(shape) - 1)
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "zero", "cut"], ["kept"]),
        helper.make_node("Concat", ["kept", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    numbers = {"zero": np.array([0]), "cut": np.array([cut]), "minus": np.array([-1])}
    module = onnx_to_torch(model(nodes, {"x": ["N", *shape[1:]]}, numbers))
    x = torch.randn(batch, *shape[1:])
    assert torch.equal(module(x), x.reshape(*x.shape[:cut], -1))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [({"kernel_shape": "text"}, "is STRING, expected INTS"), ({}, "required attribute kernel_shape is missing")],
)
def test_attributes_of_the_wrong_type_are_refused(attributes, message):
    node = helper.make_node("MaxPool", ["x"], ["y"], **attributes)
    with pytest.raises(UnsupportedOperatorsError, match=message):
        onnx_to_torch(model([node], {"x": [1, 1, 4, 4]}))


def test_bit_flips_are_refused_or_converted_but_never_crash(exported, tmp_path):
    path = tmp_path / "damaged.onnx"
    data = exported("cnn", "ts", 13)[1].SerializeToString()
    generator = np.random.default_rng(0)
    outcomes = set()
    for _ in range(60):
        damaged = bytearray(data)
        damaged[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            onnx_to_torch(path)
            outcomes.add("converted")
        except (InputError, UnsupportedOperatorsError):
            outcomes.add("refused")
    assert outcomes == {"converted", "refused"}


def test_a_node_with_a_branch_names_the_node_inside_that_cannot_be_converted():
    inner = [
        helper.make_node("Relu", ["x"], ["r"], name="inner_relu"),
        helper.make_node("Bernoulli", ["r"], ["noise"], name="inner_noise"),
        helper.make_node("Add", ["noise", "x"], ["inside"], name="inner_add"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ("inside", "other")]
    taken = helper.make_graph(inner, "taken", [], ends[:1])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["other"])], "other", [], ends[1:])
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Size", ["shape"], ["rank"]),
        helper.make_node("Equal", ["rank", "two"], ["is_matrix"]),
        helper.make_node("If", ["is_matrix"], ["z"], name="outer", then_branch=taken, else_branch=other),
        helper.make_node("Mul", ["z", "w"], ["y"]),
    ]
    proto = model(nodes, {"x": [2, 3]}, {"two": np.int64(2), "w": np.ones(3, np.float32)})
    with pytest.raises(UnsupportedOperatorsError) as refused:
        onnx_to_torch(proto)
    assert "node 'outer' (If, opset 17): it needs node 'inner_noise' (Bernoulli)" in str(refused.value)
    assert "node 'inner_noise' (Bernoulli, opset 17)" in str(refused.value)
