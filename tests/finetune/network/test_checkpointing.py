"""Gradient checkpointing gives the numbers of the plain pass, to the last bit, and keeps less."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

import rtool
from rtool.converters.batchnorm.restore import restore_batchnorm
from rtool.converters.bundles.reference import load_model
from rtool.converters.zoo.registry import build_architecture
from rtool.finetune.network.checkpointing import Checkpointed

EXAMPLE = Path(rtool.__file__).parent / "examples/models/osnet_x0_25_synthetic.onnx"


def converted():
    module = load_model(EXAMPLE).module
    restore_batchnorm(module, [torch.randn(8, 3, 128, 64)])
    return module, (128, 64)


def built():
    return build_architecture("osnet_x0_25", input_size=(32, 16)), (32, 16)


def trained(module, call, size):
    torch.manual_seed(1)
    images = torch.randn(4, 3, *size)
    module.zero_grad()
    call(images).square().sum().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}, module.state_dict()


@pytest.mark.parametrize("make", [converted, built], ids=["converted graph with BatchNorm", "architecture"])
def test_weights_statistics_and_gradients_are_those_of_the_plain_pass(make):
    module, size = make()
    module.train()
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())
    other = copy.deepcopy(module)
    plain, plain_state = trained(module, module, size)
    checkpointed = Checkpointed(other)
    assert len(checkpointed.parts) > 3
    found, state = trained(other, checkpointed, size)
    assert plain.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in plain.items())
    assert all(torch.equal(value, state[name]) for name, value in plain_state.items())
    assert all("forward" not in vars(part) for part in checkpointed.parts)


def test_activations_within_a_part_are_freed():
    module, size = built()
    module.train()
    outputs: list[StorageWeakRef] = []

    def watch(_module, _inputs, output):
        outputs.append(StorageWeakRef(output.untyped_storage()))

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(watch)

    def kept(call):
        outputs.clear()
        output = call(torch.randn(4, 3, *size))
        count = sum(not storage.expired() for storage in outputs)
        output.sum().backward()
        return count

    assert kept(Checkpointed(module)) < kept(module) / 2


def test_without_gradients_the_backbone_is_called_as_it_is():
    module, size = built()
    module.eval()
    images = torch.randn(2, 3, *size)
    assert torch.equal(Checkpointed(module)(images), module(images))
