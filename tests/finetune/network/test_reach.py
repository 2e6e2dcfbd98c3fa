"""What the chosen output does not depend on is held, and then several processes train like one."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from rtool.converters import onnx_to_torch
from rtool.converters.records.preprocessing import Preprocessing
from rtool.errors import InputError
from rtool.finetune.network.networks import Network
from rtool.finetune.network.reach import hold_unreached


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.embedding = nn.Linear(4, 8)
        self.classes = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = self.embedding(self.body(images))
        return embedding, self.classes(embedding)


def network() -> Network:
    return Network("two", TwoOutputs(), Preprocessing(16, 8), 8, lambda path, module, link: Path(path))


def test_layers_behind_the_embedding_are_held():
    made = network()
    assert hold_unreached(made, 0) == ["classes.weight", "classes.bias"]
    held = [name for name, parameter in made.module.named_parameters() if not parameter.requires_grad]
    assert held == ["classes.weight", "classes.bias"]


def test_nothing_else_changes():
    made = network()
    before = {name: value.clone() for name, value in made.module.state_dict().items()}
    state = torch.get_rng_state()
    assert hold_unreached(made, 1) == []
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in made.module.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in made.module.parameters())


def test_a_network_that_learns_nothing_is_left_alone():
    made = network()
    made.module.requires_grad_(False)
    assert hold_unreached(made, 0) == []


def quantised_between(layers: str) -> Network:
    """Two MatMuls on float32 [N, 4, 1, 3] and, before that of `layers`, activations rounded to int8."""
    nodes, value = [], "x"
    for layer in "ab":
        if layer in layers:
            nodes.append(helper.make_node("QuantizeLinear", [value, "scale"], [f"{layer}_q"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{layer}_q", "scale"], [f"{layer}_d"]))
            value = f"{layer}_d"
        nodes.append(helper.make_node("MatMul", [value, f"{layer}.weight"], [f"{layer}_y"]))
        value = f"{layer}_y"
    nodes.append(helper.make_node("Flatten", [value], ["y"]))
    weights = [numpy_helper.from_array(np.eye(3, dtype=np.float32), f"{layer}.weight") for layer in "ab"]
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "scale")
    given = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4, 1, 3])]
    made = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 12])]
    graph = helper.make_graph(nodes, "g", given, made, [*weights, scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    size = Preprocessing(4, 1, layout="nhwc")
    return Network("int8.onnx", onnx_to_torch(model), size, 12, lambda path, module, link: Path(path))


def test_weights_before_rounded_activations_are_refused_not_held():
    with pytest.raises(InputError, match=r"int8\.onnx: rounds activations to integers .* such as a\.weight"):
        hold_unreached(quantised_between("b"), 0)


def test_pixels_may_be_rounded_and_a_scale_never_trains():
    made = quantised_between("a")
    assert hold_unreached(made, 0) == []
    assert [name for name, _ in made.module.named_parameters()] == ["a.weight", "b.weight"]
