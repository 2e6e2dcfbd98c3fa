"""What weight decay is meant for: matrices and kernels, by their use in layers and in converted graphs."""

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from rtool.converters.lowering.conversion import onnx_to_torch
from rtool.converters.zoo.registry import build_architecture
from rtool.finetune.config.config import ArcFaceLoss, SoftmaxLoss
from rtool.finetune.losses.heads import build_head
from rtool.finetune.network.product_factors import product_factors


def names(module):
    factors = {id(factor) for factor in product_factors(module)}
    return {name for name, parameter in module.named_parameters() if id(parameter) in factors}


def test_layers_of_torch():
    module = nn.ModuleDict(
        {
            "conv": nn.Conv2d(8, 1, 1),  # its kernel [1, 8, 1, 1] has the shape of a scale
            "depthwise": nn.Conv2d(8, 8, 3, groups=8),
            "up": nn.ConvTranspose2d(3, 4, 2),
            "linear": nn.Linear(4, 1),
            "norm": nn.BatchNorm2d(8),
            "layer_norm": nn.LayerNorm([4, 5]),  # a scale with two axes
            "prelu": nn.PReLU(8),
            "lstm": nn.LSTM(4, 3),
            "attention": nn.MultiheadAttention(8, 2),
            "table": nn.Embedding(5, 4),
        }
    )
    assert names(module) == {
        "conv.weight",
        "depthwise.weight",
        "up.weight",
        "linear.weight",
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    }


@pytest.mark.parametrize("name", ["osnet_x0_25", "mobilefacenet", "vit_tiny"])
def test_architectures_decay_their_kernels_and_matrices_alone(name):
    module = build_architecture(name)
    expected = {
        f"{path}.weight"
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
    }
    assert names(module) == expected


@pytest.mark.parametrize("loss", [ArcFaceLoss(kind="arcface"), SoftmaxLoss(kind="softmax")])
def test_heads_decay_their_class_weights(loss):
    assert names(build_head(loss, 8, 5)) == {"weight"}


def graph():
    """Conv, then a scale [1, C, 1, 1] and a bias of that shape, a table of positions, and two matrix products."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "conv": (6, 3, 3, 3),
        "scale": (1, 6, 1, 1),
        "shift": (1, 6, 1, 1),
        "places": (1, 6, 4, 4),
        "matrix": (16, 5),
        "turned": (7, 5),
    }
    weights = [
        numpy_helper.from_array(torch.randn(shape, generator=generator).numpy(), name) for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"]),
        helper.make_node("Mul", ["a", "scale"], ["b"]),
        helper.make_node("Add", ["shift", "b"], ["c"]),
        helper.make_node("Add", ["c", "places"], ["d"]),
        helper.make_node("Reshape", ["d", "shape"], ["e"]),
        helper.make_node("MatMul", ["e", "matrix"], ["f"]),
        helper.make_node("Transpose", ["turned"], ["g"], perm=[1, 0]),
        helper.make_node("MatMul", ["f", "g"], ["y"]),
    ]
    shape = numpy_helper.from_array(torch.tensor([0, 6, 16]).numpy(), "shape")
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6, 7])],
        [*weights, shape],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_parameters_of_a_converted_graph_by_their_use():
    model = graph()
    onnx.checker.check_model(model)
    module = onnx_to_torch(model)
    decaying = {tuple(factor.shape) for factor in product_factors(module)}
    resting = {tuple(p.shape) for p in module.parameters()} - decaying
    assert {(1, 6, 1, 1), (1, 6, 4, 4)} <= resting
    assert (6, 3, 3, 3) in decaying
    matrices = {shape for shape in decaying if len(shape) == 2}
    assert {tuple(sorted(shape)) for shape in matrices} == {(5, 16), (5, 7)}
