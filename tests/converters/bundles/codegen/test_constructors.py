"""Layers are written from their constructor arguments: what the text makes is the layer, for every type there is."""

import ast
import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import nn

from rtool.converters import lowering
from rtool.converters.batchnorm.channel_offset import ChannelOffset
from rtool.converters.bundles.codegen.constructors import LAYERS, constructor
from rtool.errors import InputError

# A layer with non-default arguments, and the shape of an input for it.
CASES = {
    nn.Conv1d: [(nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2, bias=False), (2, 4, 9))],
    nn.Conv2d: [
        (nn.Conv2d(4, 6, (3, 1), stride=(1, 2), padding=(2, 0), dilation=(2, 1), groups=2), (2, 4, 7, 9)),
        (nn.Conv2d(4, 6, 3, padding=1, bias=False, padding_mode="circular"), (2, 4, 7, 9)),
        (nn.Conv2d(4, 4, 5, padding="same"), (2, 4, 7, 9)),
    ],
    nn.Conv3d: [(nn.Conv3d(2, 4, (1, 2, 3), stride=2, padding=(0, 1, 1), bias=False), (2, 2, 4, 5, 6))],
    nn.ConvTranspose1d: [(nn.ConvTranspose1d(4, 6, 3, stride=3, padding=1, output_padding=2), (2, 4, 5))],
    nn.ConvTranspose2d: [
        (nn.ConvTranspose2d(4, 6, 3, 2, 1, (1, 0), groups=2, bias=False, dilation=(2, 1)), (2, 4, 5, 6)),
    ],
    nn.ConvTranspose3d: [(nn.ConvTranspose3d(2, 4, 2, stride=(1, 2, 2), bias=False), (2, 2, 3, 4, 5))],
    nn.Linear: [(nn.Linear(5, 3, bias=False), (4, 5)), (nn.Linear(5, 3), (2, 4, 5))],
    nn.BatchNorm1d: [(nn.BatchNorm1d(5, eps=2e-5, momentum=None), (4, 5))],
    nn.BatchNorm2d: [
        (nn.BatchNorm2d(5, eps=1e-3, momentum=0.01), (4, 5, 3, 2)),
        (nn.BatchNorm2d(5, affine=False), (4, 5, 3, 2)),
        (nn.BatchNorm2d(5, track_running_stats=False, bias=False), (4, 5, 3, 2)),
    ],
    nn.BatchNorm3d: [(nn.BatchNorm3d(5, eps=float("inf"), momentum=0.25), (4, 5, 3, 2, 2))],
    nn.InstanceNorm1d: [(nn.InstanceNorm1d(5, affine=True, eps=1e-3), (4, 5, 6))],
    nn.InstanceNorm2d: [(nn.InstanceNorm2d(5, affine=True, momentum=0.3, track_running_stats=True), (4, 5, 3, 2))],
    nn.InstanceNorm3d: [(nn.InstanceNorm3d(5, eps=2e-5), (4, 5, 3, 2, 2))],
    nn.LayerNorm: [
        (nn.LayerNorm((4, 4), eps=1e-6, bias=False), (2, 4, 4)),
        (nn.LayerNorm(4, elementwise_affine=False), (2, 4)),
        (nn.LayerNorm((3, 4)), (2, 3, 4)),
    ],
    nn.RMSNorm: [
        (nn.RMSNorm(6, eps=1e-5), (2, 6)),
        (nn.RMSNorm((6, 6)), (2, 6, 6)),
        (nn.RMSNorm(6, eps=0.1, elementwise_affine=False), (2, 6)),
    ],
    nn.GroupNorm: [(nn.GroupNorm(2, 6, eps=1e-4), (2, 6, 3)), (nn.GroupNorm(3, 6, affine=False), (2, 6, 3))],
    nn.PReLU: [(nn.PReLU(4, init=0.1), (2, 4, 3)), (nn.PReLU(), (2, 4, 3))],
}
WEIGHTLESS = {
    nn.ReLU: (nn.ReLU(inplace=True), (2, 3)),
    nn.ReLU6: (nn.ReLU6(), (2, 3)),
    nn.Sigmoid: (nn.Sigmoid(), (2, 3)),
    nn.Identity: (nn.Identity(), (2, 3)),
    nn.Flatten: (nn.Flatten(2, 3), (2, 3, 4, 5)),
    nn.Dropout: (nn.Dropout(0.25, inplace=True), (2, 3)),
    nn.Dropout1d: (nn.Dropout1d(0.25), (2, 3, 4)),
    nn.Dropout2d: (nn.Dropout2d(0.25), (2, 3, 4, 5)),
    nn.Dropout3d: (nn.Dropout3d(0.25), (2, 3, 4, 5, 6)),
    nn.MaxPool2d: (nn.MaxPool2d(3, stride=(2, 1), padding=1, ceil_mode=True), (2, 3, 8, 9)),
    nn.AvgPool2d: (nn.AvgPool2d((2, 3), stride=2, count_include_pad=False), (2, 3, 8, 9)),
    nn.AdaptiveAvgPool2d: (nn.AdaptiveAvgPool2d((6, 1)), (2, 3, 8, 9)),
    nn.AdaptiveMaxPool2d: (nn.AdaptiveMaxPool2d(1), (2, 3, 8, 9)),
}
ALL = [case for cases in CASES.values() for case in cases] + list(WEIGHTLESS.values())


def attributes(layer):
    """What a layer is, beside the values of its tensors."""
    tensors = {name: (tuple(t.shape), t.dtype) for name, t in layer.state_dict().items()}
    plain = {name: value for name, value in vars(layer).items() if not name.startswith("_") or "padding" in name}
    return type(layer), plain, tensors


def rebuilt(layer):
    return eval(constructor(layer), {"nn": nn, "torch": torch})  # noqa: S307 - what the generated file does


def types_the_lowering_makes():
    """The first argument of every `op.module(...)` in the lowering rooms, looked up in its file."""
    found = set()
    for entry in pkgutil.walk_packages(lowering.__path__, f"{lowering.__name__}."):
        room = importlib.import_module(entry.name)
        for node in ast.walk(ast.parse(inspect.getsource(room))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("op.module", "self.op.module"):
                factory = node.args[0]
                table = factory.value if isinstance(factory, ast.Subscript) else factory
                value = eval(ast.unparse(table), vars(room))  # noqa: S307 - a name of our own source
                found |= set(value.values()) if isinstance(value, dict) else {value}
    return found


def calls_that_make_modules():
    """How often the word stands in the lowering rooms, however it is written."""
    texts = [
        inspect.getsource(importlib.import_module(entry.name))
        for entry in pkgutil.walk_packages(lowering.__path__, f"{lowering.__name__}.")
        if not entry.name.endswith((".operation", ".graph_builder"))
    ]
    return sum(text.count(".module(") for text in texts), sum(text.count("op.module(") for text in texts)


def test_every_type_that_the_lowering_makes_is_a_case_here_and_a_rule_there():
    made = types_the_lowering_makes()
    assert len(made) >= 17
    assert made == set(CASES)
    assert set(CASES) | set(WEIGHTLESS) == LAYERS
    anywhere, seen = calls_that_make_modules()
    assert anywhere == seen, "a layer is made in a way that this test does not see"


@pytest.mark.parametrize(("layer", "shape"), ALL, ids=[constructor(layer) for layer, _ in ALL])
def test_the_text_makes_the_same_layer(layer, shape):
    layer.eval()
    twin = rebuilt(layer).eval()
    assert attributes(twin) == attributes(layer)
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
        twin.load_state_dict(layer.state_dict())
        x = torch.randn(shape)
        assert torch.equal(twin(x.clone()), layer(x.clone()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layer", [case[0] for cases in CASES.values() for case in cases], ids=constructor)
def test_the_type_of_the_weights_is_an_argument(layer, dtype):
    other = rebuilt(layer).to(dtype)
    twin = rebuilt(other)
    assert attributes(twin)[2] == attributes(other)[2]
    has_floats = any(tensor.is_floating_point() for tensor in layer.state_dict().values())
    assert (f"dtype={dtype}" in constructor(other)) == has_floats


def test_defaults_are_left_out_and_only_those():
    assert constructor(nn.Conv2d(3, 8, 1)) == "nn.Conv2d(3, 8, kernel_size=1)"
    assert constructor(nn.LayerNorm((8, 8))) == "nn.LayerNorm((8, 8))"
    assert constructor(nn.LayerNorm(8, eps=1e-5)) == "nn.LayerNorm(8)"
    assert constructor(nn.RMSNorm(8, eps=1e-5)) == "nn.RMSNorm(8, eps=1e-05)"
    assert constructor(nn.BatchNorm1d(8, affine=False)) == "nn.BatchNorm1d(8, affine=False)"
    assert constructor(nn.Dropout(0.5)) == "nn.Dropout()"


@pytest.mark.parametrize("layer", [nn.LSTM(3, 4), nn.Embedding(3, 4), ChannelOffset(torch.ones(3), 2)])
def test_a_type_without_a_rule_is_refused_by_name(layer):
    with pytest.raises(InputError, match=rf"no rule to construct a layer of type \S*{type(layer).__name__}; expected"):
        constructor(layer)


def test_weights_of_several_types_are_refused():
    norm = nn.BatchNorm2d(4)
    norm.weight.data = norm.weight.data.half()
    with pytest.raises(
        InputError, match=r"a BatchNorm2d has weights of several types \(torch.float16, torch.float32\)"
    ):
        constructor(norm)
