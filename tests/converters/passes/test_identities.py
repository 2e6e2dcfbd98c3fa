"""Aliases disappear, also inside branches, and every output stays what it was."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.converters import export
from rtool.converters.passes.identities import drop_identities


def images(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, 8, 8])


def branch(name: str) -> onnx.GraphProto:
    """Returns a value from outside of it, by way of two Identity nodes."""
    nodes = [
        helper.make_node("Identity", ["a"], [f"{name}_alias"]),
        helper.make_node("Identity", [f"{name}_alias"], [name]),
    ]
    return helper.make_graph(nodes, name, [], [images(name)])


@pytest.fixture
def model() -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((4, 4, 3, 3)).astype(np.float32)
    truth = helper.make_tensor("truth", TensorProto.BOOL, [], [True])
    nodes = [
        helper.make_node("Constant", [], ["chosen"], name="constant", value=truth),
        helper.make_node("Identity", ["w"], ["w_alias"], name="alias"),
        helper.make_node("Conv", ["x", "w_alias"], ["a"], name="conv", pads=[1] * 4),
        helper.make_node("If", ["chosen"], ["b"], name="if", then_branch=branch("then"), else_branch=branch("else")),
        helper.make_node("Identity", ["b"], ["y"], name="output"),
    ]
    graph = helper.make_graph(nodes, "g", [images("x")], [images("y")], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_only_aliases_that_make_no_output_are_removed(model: onnx.ModelProto, run_onnx):
    parsed = ir.from_proto(model)
    drop_identities(parsed)
    result = ir.to_proto(parsed)
    assert [node.name for node in result.graph.node] == ["constant", "conv", "if", "output"]
    assert [len(attribute.g.node) for attribute in result.graph.node[2].attribute] == [1, 1]
    x = np.random.default_rng(1).standard_normal((2, 4, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(run_onnx(result, x)[0], run_onnx(model, x)[0])


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_branch_that_returns_an_outer_value_can_be_exported_in_reduced_precision(model, precision, tmp_path):
    onnx.save(model, tmp_path / "m.onnx")
    x = np.random.default_rng(1).standard_normal((32, 4, 8, 8)).astype(np.float32)
    result = export(tmp_path / "m.onnx", tmp_path / "o.onnx", inputs=x, simplifier="none", **{precision: True})
    assert [step.name for step in result.steps] == ["write-back", precision]
