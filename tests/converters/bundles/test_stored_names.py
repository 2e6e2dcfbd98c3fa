"""A bundle of a version that named unnamed layers differently still loads, with the names of its time."""

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from rtool.converters import bundle_to_onnx, load_bundle, onnx_to_torch, save_bundle
from rtool.converters.bundles.codegen.check import module_from_source
from rtool.converters.lowering import graph_builder
from rtool.converters.records.record import require_record


@pytest.fixture
def unnamed(exported, tmp_path):
    """A file as a simplifier leaves it: no scopes, and the slopes of PReLU named by nobody."""
    model = exported("cnn", "dy", 20)[1]
    names = {}
    for node in model.graph.node:
        del node.metadata_props[:]
        if node.op_type == "PRelu":
            names[node.input[1]] = f"val_9{len(names)}"
            node.input[1] = names[node.input[1]]
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    path = tmp_path / "unnamed.onnx"
    onnx.save(model, path)
    return path


def test_layers_that_nothing_names_are_named_after_what_is_around_them(unnamed, exported):
    original = exported("cnn", "dy", 20)[0]
    module = onnx_to_torch(unnamed)
    assert {"layer1.0.prelu.weight", "layer1.1.prelu.weight"} <= set(module.state_dict())
    expected = {name for name in original.state_dict() if ".conv" in name or name.startswith(("stem.0", "fc.0"))}
    assert expected <= set(module.state_dict())


def test_a_bundle_with_earlier_names_keeps_them(unnamed, tmp_path, images, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(graph_builder, "neighbouring_path", lambda *_: None)
        module = onnx_to_torch(unnamed, freeze=["node_*prelu*"])
        path = save_bundle(module, tmp_path / "m.rtool", source=unnamed)
    earlier_names = set(module.state_dict())
    assert any(name.startswith("node_") for name in earlier_names)
    bundle = load_bundle(path)
    assert set(bundle.module.state_dict()) == earlier_names
    assert set(bundle.record.parameters) == set(require_record(module).parameters)
    assert set(bundle.record.nodes) == set(require_record(module).nodes)
    frozen = {name for name, parameter in bundle.module.named_parameters() if not parameter.requires_grad}
    assert frozen == set(bundle.record.frozen) == {name for name in earlier_names if "prelu" in name}
    x = torch.from_numpy(images(2))
    twin = module_from_source((path / "model.py").read_text(), load_file(path / "weights.safetensors"))
    with torch.no_grad():
        assert torch.equal(bundle.module(x), module(x))
        assert torch.equal(twin(x), module(x))
    back = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in bundle_to_onnx(path).graph.initializer}
    for tensor in onnx.load(unnamed).graph.initializer:
        assert np.array_equal(back[tensor.name], onnx.numpy_helper.to_array(tensor))
    again = save_bundle(bundle.module, tmp_path / "again.rtool", source=path)
    assert set(load_bundle(again).module.state_dict()) == earlier_names
