"""A converted export has the outputs of ONNX Runtime and the gradients and names of the original module."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from rtool.converters import measure_parity, onnx_to_torch
from rtool.converters.records.record import require_record
from rtool.errors import InputError, UnsupportedOperatorsError

EXPORTS = [("ts", 11), ("ts", 17), ("dy", 18), ("dy", 20), ("dy", 23)]


def outputs(module, array):
    with torch.no_grad():
        return [module(torch.from_numpy(array)).numpy()]


@pytest.mark.parametrize(("kind", "opset"), EXPORTS)
@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_dynamic_exports_agree_with_onnx_runtime_at_any_batch(exported, run_onnx, images, name, kind, opset):
    _, proto = exported(name, kind, opset)
    module = onnx_to_torch(proto)
    for batch in (1, 2, 5):
        x = images(batch)
        assert measure_parity(run_onnx(proto, x), outputs(module, x)).max_rel <= 1e-5


@pytest.mark.parametrize(("kind", "opset", "batch"), [("ts", 11, 1), ("ts", 17, 4), ("dy", 20, 1), ("dy", 18, 4)])
def test_a_fixed_batch_stated_in_shapes_becomes_dynamic(exported, run_onnx, images, kind, opset, batch):
    original, proto = exported("cnn", kind, opset, batch)
    module = onnx_to_torch(proto)
    assert measure_parity(run_onnx(proto, images(batch)), outputs(module, images(batch))).max_rel <= 1e-5
    assert measure_parity(outputs(original, images(3)), outputs(module, images(3))).max_rel <= 1e-5


@pytest.mark.parametrize(("kind", "opset"), [("ts", 17), ("dy", 20)])
@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_exports_without_fusion_keep_names_and_gradients(exported, images, name, kind, opset):
    original, proto = exported(name, kind, opset, "dynamic", False)
    module = onnx_to_torch(proto)
    module.load_state_dict(original.state_dict())
    original = copy.deepcopy(original)
    for network in (original, module):
        network(torch.from_numpy(images(2))).pow(2).sum().backward()
    converted = dict(module.named_parameters())
    assert converted.keys() == dict(original.named_parameters()).keys()
    for parameter_name, parameter in original.named_parameters():
        scale = parameter.grad.abs().max()
        assert (converted[parameter_name].grad - parameter.grad).abs().max() <= 1e-4 * scale, parameter_name


def test_fused_torchscript_names_come_from_node_names(exported):
    _, proto = exported("cnn", "ts", 13)
    modules = dict(onnx_to_torch(proto).named_modules())
    assert isinstance(modules["layer1.0.conv2"], nn.Conv2d)
    assert modules["layer1.0.conv2"].bias is not None
    assert isinstance(modules["layer1.1.act"], nn.PReLU)
    assert isinstance(modules["layer1.1.gate.fc2"], nn.Conv2d)
    assert isinstance(modules["fc.0"], nn.Linear)


def test_every_float_weight_is_a_parameter_and_a_shared_module_is_called_twice(exported):
    _, proto = exported("cnn", "ts", 13)
    module = onnx_to_torch(proto)
    weights = {i.name for i in proto.graph.initializer if i.data_type == TensorProto.FLOAT}
    sources = {source.value for source in require_record(module).parameters.values()}
    assert weights <= sources
    calls = [node for node in module.graph.nodes if node.target == "layer1.0.gate.fc1"]
    assert len(calls) == 2
    assert all(p.requires_grad for p in module.parameters())


def test_equal_weights_that_the_exporter_merged_stay_separate_parameters():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.PReLU(4), nn.PReLU(4)

        def forward(self, x):
            return self.b(self.a(x) + 1)

    from io import BytesIO

    for options in ({"dynamo": False, "opset_version": 13}, {"dynamo": True, "opset_version": 20, "verbose": False}):
        buffer = BytesIO()
        torch.onnx.export(Twins().eval(), (torch.randn(2, 4, 3, 3),), buffer, **options)
        module = onnx_to_torch(onnx.load_from_string(buffer.getvalue()))
        assert set(dict(module.named_parameters())) == {"a.weight", "b.weight"}


def test_batchnorm_momentum_gets_torchs_meaning_and_training_works(exported, images):
    original, proto = exported("cnn", "ts", 17, "dynamic", False)
    module = onnx_to_torch(proto)
    assert module.get_submodule("layer1.0.bn2").momentum == pytest.approx(0.2)
    original = copy.deepcopy(original).train()
    module.train()
    x = torch.from_numpy(images(4))
    assert torch.allclose(module(x), original(x), atol=1e-5)
    assert torch.allclose(
        module.get_submodule("layer1.1.bn1").running_mean, original.layer1[1].bn1.running_mean, atol=1e-6
    )


def test_shape_chains_become_flatten(exported):
    _, proto = exported("cnn", "ts", 11)
    assert {"Shape", "Gather", "Reshape"} <= {node.op_type for node in proto.graph.node}
    module = onnx_to_torch(proto)
    assert any(node.target is torch.flatten for node in module.graph.nodes)
    assert not any(node.target in ("size", torch.reshape) for node in module.graph.nodes)


def test_freeze_patterns_stop_gradients_and_unknown_ones_are_refused(exported):
    _, proto = exported("cnn", "ts", 13)
    module = onnx_to_torch(proto, freeze=["stem.*"])
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    assert frozen == {"stem.0.weight", "stem.0.bias"}
    with pytest.raises(InputError, match="matches no parameter"):
        onnx_to_torch(proto, freeze=["nothing.*"])


def test_the_callers_proto_is_not_changed(exported):
    _, proto = exported("vit", "dy", 20)
    before = proto.SerializeToString(deterministic=True)
    module = onnx_to_torch(proto)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert proto.SerializeToString(deterministic=True) == before


def test_all_unsupported_nodes_are_listed_at_once():
    nodes = [
        helper.make_node("NoSuchThing", ["x"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="fine"),
        helper.make_node("NorThis", ["b"], ["y"], name="second"),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:])
    with pytest.raises(UnsupportedOperatorsError) as caught:
        onnx_to_torch(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert [node.node for node in caught.value.nodes] == ["first", "second"]
    assert "opset 17" in str(caught.value)


def test_initializers_among_the_inputs_are_dropped_and_unread_inputs_stay():
    weight = numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    info = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3]), ("w", [2, 3]), ("u", [1]))
    ]
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    graph = helper.make_graph([node], "g", info, [output], [weight])
    module = onnx_to_torch(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))
    assert [spec.name for spec in require_record(module).inputs] == ["x", "u"]
    assert module(torch.ones(1, 3)).tolist() == [[3.0, 3.0]]
