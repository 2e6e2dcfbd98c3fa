"""Generated source reads as people write it: nested classes, one for equal blocks, chains as `nn.Sequential`."""

import types

import pytest
import torch

from rtool.converters import onnx_to_torch
from rtool.converters.exact.axes import reshape_to
from rtool.converters.source import generate_source
from rtool.converters.source_helpers import helper_sources


@pytest.mark.parametrize(("kind", "block"), [("ts", "Layer1Block"), ("dy", "Branches")])
def test_equal_siblings_share_one_class_and_chains_are_sequential(exported, kind, block):
    text = generate_source(onnx_to_torch(exported("cnn", kind, 20 if kind == "dy" else 13)[1]))
    assert f"self.layer1 = nn.Sequential({block}(), {block}())" in text
    assert text.count(f"class {block}") == 1
    assert "self.stem = nn.Sequential(nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1), nn.ReLU())" in text
    assert text.count("self.gate(") == 2


def test_the_classes_nest_as_the_names_do(exported):
    text = generate_source(onnx_to_torch(exported("vit", "dy", 20)[1]))
    order = [line.split()[1].partition("(")[0] for line in text.splitlines() if line.startswith("class ")]
    assert order == ["Block", "Model"]
    assert "self.blocks = nn.Sequential(Block(), Block())" in text


def test_restored_batchnorms_and_odd_names_are_written_too(exported, images):
    module = onnx_to_torch(exported("cnn", "ts", 13)[1])
    from rtool.converters import restore_batchnorm

    restore_batchnorm(module, [torch.from_numpy(images(8))])
    generated = types.ModuleType("generated")
    exec(compile(generate_source(module), "model.py", "exec"), generated.__dict__)
    model = generated.Model().eval()
    model.load_state_dict(module.state_dict())
    x = torch.from_numpy(images(2))
    with torch.no_grad():
        assert torch.equal(model(x), module(x))


def test_helpers_come_with_what_they_need():
    namespace = {"torch": torch}
    exec("import torch.nn.functional as F\nfrom torch import Tensor, nn\nfrom typing import List", namespace)
    for part in helper_sources([reshape_to]):
        exec(part, namespace)
    x = torch.arange(6.0).reshape(2, 3)
    assert namespace["reshape_to"](x, [0, 3, 1], False).shape == (2, 3, 1)
    assert helper_sources([torch.relu]) == []
