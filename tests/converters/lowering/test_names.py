"""Module names come from the names and metadata that exporters write, changed as little as Python requires."""

import onnx_ir as ir
import pytest

from rtool.converters.lowering.names import is_generated, parameter_path, safe_path, scope_of


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
