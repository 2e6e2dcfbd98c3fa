"""Module names come from the names and metadata that exporters write, changed as little as Python requires."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from rtool.converters import onnx_to_torch
from rtool.converters.lowering.names import parameter_path, safe_path, scope_of
from rtool.converters.records.generated_names import is_generated


@pytest.mark.parametrize(
    ("node_name", "scope"),
    [
        ("/conv2/conv2.0/conv1/conv/Conv", "conv2.0.conv1.conv"),
        ("/fc/fc.0/Gemm", "fc.0"),
        ("/layers.0/layers.0.0/conv1/Conv", "layers.0.0.conv1"),
        ("/Relu", ""),
        ("Conv_12", ""),
        ("", ""),
    ],
)
def test_torchscript_node_names_state_the_scope(node_name, scope):
    assert scope_of(ir.Node("", "Conv", inputs=[], name=node_name)) == scope


def test_dynamo_metadata_states_the_scope_and_damaged_metadata_is_ignored():
    node = ir.Node("", "Conv", inputs=[], name="node_Conv_12")
    node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'layer1', 'layer1.0', 'conv2d']"
    assert scope_of(node) == "layer1.0"
    node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', "
    assert scope_of(node) == ""


@pytest.mark.parametrize("name", ["onnx::Conv_1047", "val_16", "/Constant_3_output_0", "123", "Constant_5", "scalar"])
def test_generated_names_are_known(name):
    assert is_generated(name)
    assert parameter_path(name) is None


def test_original_names_split_into_module_and_attribute():
    assert parameter_path("conv2.0.gate.fc1.weight") == ("conv2.0.gate.fc1", "weight")
    assert parameter_path("pos_embed") == ("", "pos_embed")
    assert parameter_path("constant_head.fc.weight") == ("constant_head.fc", "weight")


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("layer1.0.conv", "layer1.0.conv"),
        ("class", "class_"),
        ("train", "train_"),
        ("a/b:0", "a_b_0"),
        ("3x3", "m3x3"),
        ("é.ü", "module.module"),
    ],
)
def test_paths_become_attributes_that_hide_nothing(path, safe):
    assert safe_path(path) == safe


def chain_model(*layers):
    """A file of layers one after the other on [N, 4, 4], none with a scope: (operator, name of its weight)."""
    weights, nodes, value = [], [], "x"
    shapes = {"Conv": (4, 4, 1), "PRelu": (4, 1), "MatMul": (4, 4), "Mul": (4,)}
    for index, (operator, name) in enumerate(layers):
        array = np.random.default_rng(index).standard_normal(shapes[operator]).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(array, name))
        nodes.append(onnx.helper.make_node(operator, [value, name], [f"v{index}"], name=f"n_{index}"))
        value = f"v{index}"
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", 4, 4]) for n in ("x", value)]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        # an activation belongs to the layer before it
        ([("Conv", "a.conv1.weight"), ("PRelu", "val_1"), ("Conv", "a.conv2.weight")], "a.prelu.weight"),
        ([("Conv", "conv1.weight"), ("PRelu", "val_1"), ("Conv", "a.conv.weight")], "prelu.weight"),
        ([("Conv", "a.layers.0.weight"), ("PRelu", "val_1"), ("Conv", "a.layers.3.weight")], "a.layers.1.weight"),
        # a layer belongs to what lies deeper, or to what both lie in
        (
            [("Conv", "b.0.norm1.weight"), ("MatMul", "val_1"), ("Conv", "b.0.attn.proj.weight")],
            "b.0.attn.linear.weight",
        ),
        ([("Conv", "b.0.attn.proj.weight"), ("MatMul", "val_1"), ("Conv", "b.0.norm.weight")], "b.0.linear.weight"),
        (
            [("Conv", "b.0.down.norm.weight"), ("MatMul", "val_1"), ("Conv", "b.1.norm.weight")],
            "b.0.down.linear.weight",
        ),
        # the last layer is a head
        ([("Conv", "b.0.conv.weight"), ("MatMul", "val_1")], "linear.weight"),
        # number 0 of a list whose number 1 is behind it
        ([("Conv", "b.0.conv.weight"), ("Mul", "unsqueeze_3"), ("Conv", "d.1.1.weight")], "d.1.0.weight"),
        # what a simplifier called after an operation it folded
        ([("Conv", "a.conv1.weight"), ("Mul", "transpose"), ("Conv", "a.conv2.weight")], "a.weight"),
        # nothing around it has a name
        ([("Conv", "onnx::Conv_1"), ("PRelu", "val_1")], "n_1.weight"),
    ],
)
def test_a_weight_without_name_and_scope_is_named_by_its_neighbours(layers, expected):
    module = onnx_to_torch(chain_model(*layers))
    names = set(module.state_dict()) - {name for _, name in layers}
    assert expected in names, names
