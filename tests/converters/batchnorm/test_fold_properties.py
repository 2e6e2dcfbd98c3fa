"""Folding as properties: on each of the topologies, for any geometry and any statistics, the function stays.

The oracle is BatchNorm's own formula in NumPy float64, put between torch's functional layers; for `padded` also
ONNX Runtime, on the graph before and after.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rtool.converters import fold_batchnorm, onnx_to_torch, torch_to_onnx

EXACT = 1e-11
"""Relative, in float64: a few hundred products summed in another order."""


class FormulaNorm(nn.Module):
    """BatchNorm in eval mode as written in the paper, computed by NumPy."""

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        values = [layer.running_mean, layer.running_var, layer.weight, layer.bias]
        ones = [np.zeros(layer.num_features), None, np.ones(layer.num_features), np.zeros(layer.num_features)]
        arrays = [d if v is None else v.detach().numpy() for v, d in zip(values, ones, strict=True)]
        mean, var, gamma, beta = (a.reshape(1, -1, *[1] * (x.ndim - 2)) for a in arrays)
        return torch.from_numpy((x.detach().numpy() - mean) / np.sqrt(var + layer.eps) * gamma + beta)


@dataclass(frozen=True)
class Geometry:
    """One draw; channels are multiples of `groups`."""

    groups: int
    inputs: int
    outputs: int
    kernel: int
    stride: int
    dilation: int
    padding: int
    bias: bool

    def conv(self, layer: Callable[..., nn.Module], *, groups: int | None = None, **options) -> nn.Module:
        own = {"stride": self.stride, "dilation": self.dilation, "padding": self.padding, "bias": self.bias}
        return layer(self.inputs, self.outputs, self.kernel, groups=groups or self.groups, **(own | options))

    def depthwise(self) -> nn.Module:
        own = {"stride": self.stride, "dilation": self.dilation, "padding": self.padding, "bias": self.bias}
        return nn.Conv2d(self.inputs, self.inputs, self.kernel, groups=self.inputs, **own)


def geometries():
    small = st.integers(1, 3)
    return st.tuples(small, small, small, small, small, small, st.integers(0, 3), st.booleans()).map(
        lambda d: Geometry(d[0], d[0] * d[1], d[0] * d[2], *d[3:])
    )


SIDE = 11
IMAGE, LINE, CUBE, ROW = (SIDE, SIDE), (SIDE,), (8, 8, 8), ()

# name -> (layers of a Sequential for a geometry, axes behind the channels, whether it needs `padded`)
TOPOLOGIES = {
    "conv 1d": (lambda g: [g.conv(nn.Conv1d), nn.BatchNorm1d(g.outputs)], LINE, False),
    "conv 2d": (lambda g: [g.conv(nn.Conv2d, groups=1), nn.BatchNorm2d(g.outputs)], IMAGE, False),
    "grouped conv": (lambda g: [g.conv(nn.Conv2d), nn.BatchNorm2d(g.outputs)], IMAGE, False),
    "depthwise conv": (lambda g: [g.depthwise(), nn.BatchNorm2d(g.inputs)], IMAGE, False),
    "conv 3d": (lambda g: [g.conv(nn.Conv3d, dilation=1), nn.BatchNorm3d(g.outputs)], CUBE, False),
    "transposed conv": (
        lambda g: [g.conv(nn.ConvTranspose2d, groups=1, padding=0), nn.BatchNorm2d(g.outputs)],
        IMAGE,
        False,
    ),
    "grouped transposed conv": (
        lambda g: [g.conv(nn.ConvTranspose2d, padding=0), nn.BatchNorm2d(g.outputs)],
        IMAGE,
        False,
    ),
    "linear": (
        lambda g: [nn.Flatten(), nn.Linear(g.inputs, g.outputs, bias=g.bias), nn.BatchNorm1d(g.outputs)],
        ROW,
        False,
    ),
    "batchnorm without affine parameters": (
        lambda g: [g.conv(nn.Conv2d), nn.BatchNorm2d(g.outputs, affine=False)],
        IMAGE,
        False,
    ),
    "two batchnorms and a dropout": (
        lambda g: [g.conv(nn.Conv2d), nn.BatchNorm2d(g.outputs), nn.Dropout2d(), nn.BatchNorm2d(g.outputs)],
        IMAGE,
        False,
    ),
    "before an unpadded conv": (
        lambda g: [nn.ReLU(), nn.BatchNorm2d(g.inputs), g.conv(nn.Conv2d, padding=0)],
        IMAGE,
        False,
    ),
    "before a reflecting conv": (
        lambda g: [nn.ReLU(), nn.BatchNorm2d(g.inputs), g.conv(nn.Conv2d, padding_mode="reflect")],
        IMAGE,
        False,
    ),
    "before a flattening and linear": (
        lambda g: [
            nn.ReLU(),
            nn.BatchNorm2d(g.inputs),
            nn.Flatten(),
            nn.Linear(g.inputs * SIDE * SIDE, g.outputs, bias=g.bias),
        ],
        IMAGE,
        False,
    ),
    "on both sides of an unpadded conv": (
        lambda g: [
            nn.ReLU(),
            nn.BatchNorm2d(g.inputs),
            g.conv(nn.Conv2d, padding=0),
            nn.BatchNorm2d(g.outputs),
        ],
        IMAGE,
        False,
    ),
    "before a padded conv": (
        lambda g: [nn.ReLU(), nn.BatchNorm2d(g.inputs), g.conv(nn.Conv2d)],
        IMAGE,
        True,
    ),
    "before a conv padded to the same size": (
        lambda g: [nn.ReLU(), nn.BatchNorm2d(g.inputs), g.conv(nn.Conv2d, padding="same", stride=1)],
        IMAGE,
        True,
    ),
    "before a transposed conv": (
        lambda g: [nn.ReLU(), nn.BatchNorm2d(g.inputs), g.conv(nn.ConvTranspose2d, padding=0)],
        IMAGE,
        True,
    ),
    "on both sides of a padded conv": (
        lambda g: [nn.ReLU(), nn.BatchNorm2d(g.inputs), g.conv(nn.Conv2d), nn.BatchNorm2d(g.outputs)],
        IMAGE,
        True,
    ),
}


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Statistics over six orders of magnitude, gammas of both signs, none 0."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            shape = (layer.num_features,)
            layer.running_mean = torch.randn(shape, generator=generator)
            layer.running_var = 10 ** (torch.rand(shape, generator=generator) * 6 - 4)
            if layer.affine:
                sign = 1.0 - 2.0 * torch.randint(0, 2, shape, generator=generator)
                layer.weight.data = sign * 10 ** (torch.rand(shape, generator=generator) * 3 - 2)
                layer.bias.data = torch.randn(shape, generator=generator)
    return module.double().eval()


def by_formula(layers: list[nn.Module]) -> nn.Sequential:
    return nn.Sequential(*(FormulaNorm(layer) if isinstance(layer, _BatchNorm) else layer for layer in layers))


@pytest.mark.parametrize("name", TOPOLOGIES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(geometry=geometries(), seed=st.integers(0, 2**31))
def test_folding_leaves_the_function_and_no_batchnorm(name, geometry, seed):
    build, axes, padded = TOPOLOGIES[name]
    torch.manual_seed(seed)
    module = randomise(nn.Sequential(*build(geometry)), seed)
    inputs = torch.randn(3, geometry.inputs, *axes, dtype=torch.float64)
    with torch.no_grad():
        expected = by_formula(list(module))(inputs)
        traced = fx.symbolic_trace(module)
        report = fold_batchnorm(traced, padded=padded)
        got = traced(inputs)
    assert not report.kept
    assert not any(isinstance(layer, _BatchNorm) for layer in traced.modules())
    # Relative to what is summed: shifts of both signs cancel to less than they are.
    size = max(1.0, float(expected.abs().max())) * max(float(t.abs().max()) for t in traced.state_dict().values())
    assert float((got - expected).abs().max()) <= EXACT * size


def padded_by_hand(x: np.ndarray, norm: nn.BatchNorm2d, weight: np.ndarray, padding: int) -> np.ndarray:
    """The convolution of x padded, channel by channel, with mean - beta * sqrt(var + eps) / gamma; stride 1, NumPy."""
    mean, var, gamma, beta = (
        t.detach().double().numpy() for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    scale = gamma / np.sqrt(var + norm.eps)
    border = mean - beta / scale
    wide = np.stack(
        [np.pad(x[:, c], ((0, 0), (padding,) * 2, (padding,) * 2), constant_values=p) for c, p in enumerate(border)], 1
    )
    scaled = weight * scale[:, None, None]
    bias = (weight * (beta - mean * scale)[:, None, None]).sum((1, 2, 3))
    windows = np.lib.stride_tricks.sliding_window_view(wide, weight.shape[2:], axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, scaled) + bias[:, None, None]


def test_the_offset_is_padding_with_minus_beta_over_gamma():
    torch.manual_seed(0)
    module = randomise(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3, padding=2, bias=False)), 0)
    x = torch.rand(2, 4, 6, 7, dtype=torch.float64)
    wanted = padded_by_hand(x.numpy(), module[1], module[2].weight.detach().numpy(), 2)
    traced = fx.symbolic_trace(copy.deepcopy(module))
    (entry,) = fold_batchnorm(traced, padded=True).folded
    assert (entry.batchnorm, entry.into, entry.place) == ("1", "2", "before, leaving an offset")
    with torch.no_grad():
        assert np.allclose(traced(x).numpy(), wanted, rtol=1e-11, atol=1e-11)
        assert np.allclose(module(x).numpy(), wanted, rtol=1e-11, atol=1e-11)


def test_onnx_runtime_computes_the_same_before_and_after():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3, 2, 1), nn.BatchNorm2d(6)]
    module = randomise(nn.Sequential(*layers), 3).float()
    traced = fx.symbolic_trace(copy.deepcopy(module))
    assert not fold_batchnorm(traced, padded=True).kept
    images = np.random.default_rng(0).standard_normal((3, 3, 12, 9)).astype(np.float32)
    outputs = []
    for network in (module, traced):
        model = torch_to_onnx(network, torch.from_numpy(images))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, {"images": images})[0])
        operators = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in operators
    assert np.abs(outputs[0] - outputs[1]).max() <= 1e-5 * np.abs(outputs[0]).max()


@pytest.mark.parametrize(("gamma", "reason"), [(0.0, "gamma is 0 in channel 2"), (1e-30, "too near 0 in channel 2")])
def test_a_channel_that_no_value_maps_to_zero_keeps_its_batchnorm(gamma, reason):
    module = randomise(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3, padding=1)), 0).float()
    module[1].weight.data[2] = gamma
    traced = fx.symbolic_trace(module)
    images = torch.randn(2, 4, 6, 6)
    expected = traced(images)
    (kept,) = fold_batchnorm(traced, padded=True).kept
    assert reason in kept.reason
    assert torch.equal(traced(images), expected)


def test_a_dead_channel_without_shift_folds():
    module = randomise(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3, padding=1)), 0)
    with torch.no_grad():
        module[1].weight[2], module[1].bias[2] = 0.0, 0.0
    traced = fx.symbolic_trace(module)
    images = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    expected = traced(images)
    assert not fold_batchnorm(traced, padded=True).kept
    assert torch.allclose(traced(images), expected, rtol=1e-11, atol=1e-11)


def gemm_model(
    alpha: float, beta: float, transposed: bool, *, other: float = 0.0, consumers: int = 1
) -> onnx.ModelProto:
    """Gemm then BatchNormalization; the weight also read by a Gemm of factor `other` unless that is 0, and the Gemm's
    result by `consumers` nodes.
    """
    draw = np.random.default_rng(0)
    arrays = {
        "w": draw.standard_normal((6, 4) if transposed else (4, 6)),
        "c": draw.standard_normal(6),
        "gamma": draw.standard_normal(6),
        "shift": draw.standard_normal(6),
        "mean": draw.standard_normal(6),
        "var": draw.random(6) + 0.1,
    }
    options = {"alpha": alpha, "beta": beta, "transB": int(transposed)}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "c"], ["a"], name="gemm", **options),
        helper.make_node("BatchNormalization", ["a", "gamma", "shift", "mean", "var"], ["n"], name="norm"),
    ]
    result = "n"
    if other:
        nodes += [helper.make_node("Gemm", ["x", "w"], ["b"], alpha=other, transB=int(transposed))]
        nodes += [helper.make_node("Add", ["n", "b"], ["sum"])]
        result = "sum"
    if consumers == 2:
        nodes += [helper.make_node("Add", ["n", "a"], ["both"])]
        result = "both"
    nodes += [helper.make_node("Relu", [result], ["y"])]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", size]) for n, size in (("x", 4), ("y", 6))]
    weights = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def by_onnx_runtime(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 1.0), (1.0, -2.0), (0.25, 3.0)])
def test_gemm_of_any_factors_absorbs_a_batchnorm(alpha, beta, transposed):
    model = gemm_model(alpha, beta, transposed)
    x = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    module = onnx_to_torch(model)
    assert not fold_batchnorm(module).kept
    assert not any(isinstance(layer, _BatchNorm) for layer in module.modules())
    with torch.no_grad():
        got = module(torch.from_numpy(x)).numpy()
    assert np.allclose(got, by_onnx_runtime(model, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "kept"),
    [({"other": 1.0}, 0), ({"other": 2.0}, 1), ({"consumers": 2}, 1)],
    ids=["a Linear shares the weight, which is cloned", "another Gemm reads it", "the result is used unnormalised"],
)
def test_gemm_whose_weight_or_result_is_used_elsewhere(options, kept):
    model = gemm_model(0.5, 2.0, True, **options)
    x = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    module = onnx_to_torch(model)
    report = fold_batchnorm(module)
    assert len(report.kept) == kept
    assert all(entry.reason for entry in report.kept)
    with torch.no_grad():
        got = module(torch.from_numpy(x)).numpy()
    assert np.allclose(got, by_onnx_runtime(model, x), rtol=1e-5, atol=1e-6)
