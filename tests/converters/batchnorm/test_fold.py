"""Folding leaves the function unchanged on every topology, or keeps the BatchNorm and reports why."""

import copy
import re

import pytest
import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rtool.converters import fold_batchnorm, restore_batchnorm
from rtool.converters.zoo.registry import build_architecture
from rtool.errors import InputError


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics and affine parameters far from the identity, with one negative and one tiny gamma."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            if layer.running_mean is not None:
                layer.running_mean.copy_(torch.randn(layer.num_features, generator=generator))
                layer.running_var.copy_(torch.rand(layer.num_features, generator=generator) * 3 + 1e-3)
            if layer.weight is not None:
                layer.weight.data.copy_(torch.randn(layer.num_features, generator=generator))
                layer.weight.data[0] = 1e-6
                layer.bias.data.copy_(torch.randn(layer.num_features, generator=generator))
    return module.eval()


def traced(module: nn.Module) -> fx.GraphModule:
    return fx.symbolic_trace(randomise(module.double()))


def batchnorms(module: nn.Module) -> list[str]:
    return [name for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)]


IMAGE, VECTOR, SEQUENCE = (3, 8, 7, 6), (3, 8), (3, 8, 9)

# name -> (module, shape of its input)
FOLDABLE = {
    "conv": (nn.Sequential(nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)), IMAGE),
    "conv with bias, stride and dilation": (
        nn.Sequential(nn.Conv2d(8, 6, 3, 2, 2, dilation=2), nn.BatchNorm2d(6)),
        IMAGE,
    ),
    "grouped conv": (nn.Sequential(nn.Conv2d(8, 12, 3, groups=4), nn.BatchNorm2d(12)), IMAGE),
    "depthwise conv": (nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)), IMAGE),
    "conv 1d": (nn.Sequential(nn.Conv1d(8, 6, 3, padding="same"), nn.BatchNorm1d(6)), SEQUENCE),
    "transposed conv": (nn.Sequential(nn.ConvTranspose2d(8, 6, 3, 2, 1), nn.BatchNorm2d(6)), IMAGE),
    "grouped transposed conv": (
        nn.Sequential(nn.ConvTranspose2d(8, 12, 3, 2, 1, 1, groups=4), nn.BatchNorm2d(12)),
        IMAGE,
    ),
    "linear on a matrix": (nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.BatchNorm1d(5)), VECTOR),
    "batchnorm without affine parameters": (
        nn.Sequential(nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6, affine=False)),
        IMAGE,
    ),
    "two batchnorms in a row": (
        nn.Sequential(nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6)),
        IMAGE,
    ),
    "dropout between": (nn.Sequential(nn.Conv2d(8, 6, 3), nn.Dropout2d(), nn.BatchNorm2d(6)), IMAGE),
    "batchnorm before an unpadded conv": (
        nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3, groups=2)),
        IMAGE,
    ),
    "batchnorm before a reflecting conv": (
        nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect")),
        IMAGE,
    ),
    "batchnorm before a pointwise transposed conv": (
        nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 6, 1, groups=2)),
        IMAGE,
    ),
    "batchnorm, dropout, flattening and linear": (
        nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8), nn.Dropout(), nn.Flatten(), nn.Linear(8 * 42, 5, bias=False)),
        IMAGE,
    ),
}


@pytest.mark.parametrize("name", FOLDABLE)
def test_folding_keeps_the_function_and_leaves_no_batchnorm(name):
    torch.manual_seed(0)
    module, shape = FOLDABLE[name]
    module = traced(copy.deepcopy(module))
    inputs = torch.randn(shape, dtype=torch.float64)
    expected = module(inputs)
    report = fold_batchnorm(module)
    assert not report.kept
    assert not batchnorms(module)
    assert torch.allclose(module(inputs), expected, rtol=1e-11, atol=1e-11)


class Branching(nn.Module):
    """The convolution's output is also used unnormalised."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) + y


class ConvIsOutput(Branching):
    def forward(self, x):
        y = self.conv(x)
        return y, self.bn(y)


class SharedConv(Branching):
    def forward(self, x):
        return self.bn(self.conv(x)) + self.conv(x * 2)


class SharedBatchNorm(Branching):
    def forward(self, x):
        return self.bn(self.conv(x)) + self.bn(x)


KEPT = {
    "second consumer": (Branching(), IMAGE, "consumers"),
    "graph output": (ConvIsOutput(), IMAGE, "output of the graph"),
    "conv called twice": (SharedConv(), IMAGE, "called more than once"),
    "batchnorm called twice": (SharedBatchNorm(), IMAGE, "called more than once"),
    "zero padding behind it": (
        nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3, padding=1)),
        IMAGE,
        "pads with zeros",
    ),
    "before a strided transposed conv": (
        nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 6, 2, 2)),
        IMAGE,
        "pads with zeros",
    ),
    "activations on both sides": (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8), nn.ReLU()), IMAGE, "neither Conv nor"),
    "batch statistics": (
        nn.Sequential(nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6, track_running_stats=False)),
        IMAGE,
        "no running statistics",
    ),
    "linear on a sequence": (nn.Sequential(nn.Linear(9, 8), nn.BatchNorm1d(8)), SEQUENCE, "matrix"),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_cannot_be_folded_exactly_is_kept_with_its_reason(name):
    torch.manual_seed(0)
    module, shape, reason = KEPT[name]
    module = traced(copy.deepcopy(module))
    inputs = torch.randn(shape, dtype=torch.float64)
    before, expected = batchnorms(module), module(inputs)
    report = fold_batchnorm(module)
    assert not report.folded
    assert batchnorms(module) == before
    assert all(reason in kept.reason for kept in report.kept), report.kept
    assert all(torch.equal(a, b) for a, b in zip(module(inputs), expected, strict=True))


def test_zero_shift_folds_through_padding():
    module = traced(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3, padding=1)))
    batchnorm = module.get_submodule("1")
    batchnorm.running_mean.zero_()
    batchnorm.bias.data.zero_()
    inputs = torch.randn(IMAGE, dtype=torch.float64)
    expected = module(inputs)
    assert not fold_batchnorm(module).kept
    assert torch.allclose(module(inputs), expected, rtol=1e-11, atol=1e-11)


def test_training_mode_keeps_everything():
    module = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))).train()
    (kept,) = fold_batchnorm(module).kept
    assert "eval()" in kept.reason


def test_tied_weight_is_cloned_before_folding():
    module = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))
    module[3].weight = module[0].weight
    module = traced(module)
    inputs = torch.randn(IMAGE, dtype=torch.float64)
    expected, weight = module(inputs), module.get_submodule("3").weight.clone()
    fold_batchnorm(module)
    assert torch.equal(module.get_submodule("3").weight, weight)
    assert torch.allclose(module(inputs), expected, rtol=1e-11, atol=1e-11)


def test_only_the_named_batchnorms_are_touched():
    module = traced(nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)))
    report = fold_batchnorm(module, only={"3"})
    assert [(entry.batchnorm, entry.into) for entry in report.folded] == [("3", "2")]
    assert batchnorms(module) == ["1"]


# name -> BatchNorms that stay: the pre-activation ones of iResNet, all before padded convolutions
NETWORKS = {"iresnet18": 8, "mobilefacenet": 0, "osnet_x0_25": 0, "resnet50": 0}


@pytest.mark.parametrize("name", NETWORKS)
def test_known_networks_keep_the_known_number_of_batchnorms(name):
    torch.manual_seed(0)
    module = fx.symbolic_trace(randomise(build_architecture(name, input_size=(32, 32))))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = module(images)
        report = fold_batchnorm(module)
        error = (module(images) - expected).abs().max() / expected.abs().max()
    assert len(report.kept) == len(batchnorms(module)) == NETWORKS[name]
    assert all("pads with zeros" in kept.reason for kept in report.kept)
    assert error <= 1e-5


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_any_geometry_folds_behind_a_convolution(seed, groups, transposed):
    generator = torch.Generator().manual_seed(seed)
    kernel, stride, dilation, padding = (int(torch.randint(low, 4, (), generator=generator)) for low in (1, 1, 1, 0))
    inputs, outputs = groups * (1 + seed % 3), groups * (1 + seed % 2)
    layer = nn.ConvTranspose2d if transposed else nn.Conv2d
    conv = layer(inputs, outputs, kernel, stride, padding, groups=groups, dilation=dilation, bias=bool(seed % 2))
    module = traced(nn.Sequential(conv, nn.BatchNorm2d(outputs)))
    images = torch.randn(2, inputs, 12, 11, dtype=torch.float64, generator=generator)
    expected = module(images)
    assert not fold_batchnorm(module).kept
    assert torch.allclose(module(images), expected, rtol=1e-11, atol=1e-11)


class Watched(nn.Module):
    """A convolution in front of a BatchNorm, whose weight, input or output something else reads as well."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.norm, self.how = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), how
        if how == "weight norm":
            nn.utils.parametrizations.weight_norm(self.conv)
        elif how == "old spectral norm":
            nn.utils.spectral_norm(self.conv)
        elif how == "hook on the layer":
            self.conv.register_forward_hook(lambda _, __, output: output.relu())
        elif how == "hook on the BatchNorm":
            self.norm.register_forward_pre_hook(lambda _, inputs: (inputs[0].relu(),))

    def forward(self, x):
        y = self.norm(self.conv(x))
        return y * self.conv.weight.sum() if self.how == "weight read outside" else y


WATCHED = {
    "weight norm": "computed by a parametrization",
    "old spectral norm": "'conv' has a hook",
    "hook on the layer": "'conv' has a hook",
    "hook on the BatchNorm": "'norm' has a hook",
    "weight read outside": r"'conv\.weight' is also read outside",
}


@pytest.mark.parametrize("how", WATCHED)
def test_batchnorm_is_kept_where_something_else_reads_the_layer(how):
    torch.manual_seed(0)
    module = Watched(how)
    x = torch.randn(2, 4, 6, 6)
    network = fx.symbolic_trace(randomise(module))
    expected = network(x)
    report = fold_batchnorm(network)
    assert report.folded == ()
    assert re.search(WATCHED[how], report.kept[0].reason)
    assert torch.equal(network(x), expected)


def test_a_module_without_a_graph_is_refused_with_the_way_to_one():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    for call in (fold_batchnorm, lambda given: restore_batchnorm(given, [])):
        with pytest.raises(InputError, match=r"expected a torch\.fx\.GraphModule, got Sequential; .*symbolic_trace"):
            call(module)
