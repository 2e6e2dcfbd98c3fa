"""Weights are rounded so that a layer's outputs change least: against the definition, and in a network."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from rtool.errors import GateError
from rtool.finetune.distillation.quantised.fake_quantisation import FakeWeight
from rtool.finetune.distillation.quantised.quantised_network import _Computed
from rtool.finetune.distillation.quantised.weight_rounding import round_to_inputs, rounding_order_values


def inputs(columns: int, count: int, seed: int = 0) -> np.ndarray:
    """Correlated inputs [columns, count], as neighbouring pixels are."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(columns, 3)) @ rng.normal(size=(3, count)) + 0.1 * rng.normal(size=(columns, count))


def by_definition(weight: np.ndarray, step: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Levels of one weight after another, largest inputs first.

    After each, the least squares of what is left: the free weights move to where the outputs change least.
    """
    moments = moments + 0.01 * np.diag(moments).mean() * np.eye(len(moments))
    order = np.argsort(-np.diag(moments), kind="stable")
    left, levels = weight.copy(), np.zeros_like(weight)
    for place, column in enumerate(order):
        levels[:, column] = np.clip(np.round(left[:, column] / step), -127, 127)
        free = order[place + 1 :]
        error = left[:, column] - levels[:, column] * step
        if len(free):
            left[:, free] += error[:, None] * np.linalg.solve(moments[np.ix_(free, free)], moments[free, column])
    return levels


@pytest.mark.parametrize("groups", [1, 3])
def test_the_levels_are_those_of_the_definition(groups):
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(6, 9))
    step = np.abs(weight).max(1) / 20
    seen = [inputs(9, 400, seed) for seed in range(groups)]
    moments = np.stack([each @ each.T for each in seen])
    turned = rounding_order_values(
        torch.tensor(weight, dtype=torch.float32).reshape(6, 1, 3, 3),
        torch.tensor(step, dtype=torch.float32).reshape(6, 1, 1, 1),
        torch.from_numpy(moments),
    )
    assert turned.shape == (6, 1, 3, 3)
    found = np.clip(np.round(turned.reshape(6, 9).numpy() / step[:, None]), -127, 127)
    rows = 6 // groups
    nearest = np.round(weight / step[:, None])
    for group, each in enumerate(seen):
        of = slice(group * rows, (group + 1) * rows)
        np.testing.assert_array_equal(found[of], by_definition(weight[of], step[of], moments[group]))
        lost = [np.square((levels[of] * step[of, None] - weight[of]) @ each).sum() for levels in (found, nearest)]
        assert lost[0] < 0.5 * lost[1]


def test_inputs_that_are_never_other_than_zero_do_no_harm():
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    step = weight.abs().amax(1, keepdim=True) / 127
    assert torch.equal(rounding_order_values(weight, step, torch.zeros(1, 5, 5, dtype=torch.float64)), weight)


class OneLayer(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.fake = FakeWeight(layer.weight.detach())
        self.fake.unit *= 16  # levels sixteen times as wide
        self.fake_free = layer.weight.detach().clone()
        parametrize.register_parametrization(layer, "weight", _Computed(self.fake), unsafe=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images)


@pytest.mark.parametrize(("images", "batch"), [(40, 64), (300, 256), (1000, 512), (5, 1)])
def test_every_batch_measures_something(images, batch):
    network = OneLayer(nn.Conv2d(3, 4, 3))
    assert round_to_inputs(network, torch.randn(images, 3, 6, 6), batch) == 1
    assert not torch.equal(network.fake.first, network.layer.weight)


def test_the_images_that_are_measured_are_not_views_of_a_few():
    """Six views of 512 images, one view behind the other: every eighth row would be of the same 64 images."""
    network, seen = OneLayer(nn.Linear(1, 2)), []
    network.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0].flatten().tolist()))
    round_to_inputs(network, torch.arange(512.0).repeat(6)[:, None], 16)
    assert len(seen) == 384
    assert len(set(seen)) > 200


def test_a_weight_of_too_many_columns_keeps_its_nearest_levels():
    network = OneLayer(nn.Linear(4609, 2))
    first = network.fake.first.clone()
    assert round_to_inputs(network, torch.randn(8, 4609), 8) == 0
    assert torch.equal(network.fake.first, first)


@pytest.mark.parametrize(
    ("value", "refused"), [(1e18, False), (1e30, False), (float("inf"), True), (float("nan"), True)]
)
def test_inputs_that_are_not_finite_are_refused_by_the_name_of_the_layer(value, refused):
    network = OneLayer(nn.Linear(4, 2))
    images = torch.randn(32, 4)
    images[3, 1] = value
    if not refused:
        assert round_to_inputs(network, images, 8) == 1
        return
    with pytest.raises(GateError, match="inputs of 'layer' hold NaN or infinity"):
        round_to_inputs(network, images, 8)


def test_positions_are_measured_all_over_the_image():
    """The left column is unlike the rest; an even stride over as many positions as there are rows sees only it."""
    torch.manual_seed(0)
    network = OneLayer(nn.Conv2d(16, 16, 1))
    images = (torch.randn(384, 3, 64, 32).transpose(1, 3) @ torch.randn(3, 16)).transpose(1, 3)
    images[..., 0] = 3 * (torch.randn(384, 64, 3) @ torch.randn(3, 16)).transpose(1, 2)
    with torch.no_grad():
        lost = []
        for _ in range(2):
            outputs = network(images[:32]) - nn.functional.conv2d(images[:32], network.fake_free, network.layer.bias)
            lost.append(float(outputs[..., 1:].square().mean()))
            round_to_inputs(network, images, 16)
    assert lost[1] < 0.8 * lost[0]


class Layers(nn.Module):
    """A strided and padded, a grouped and a linear layer; the second is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.line = nn.Conv1d(8, 8, 1)
        self.last = nn.Linear(8, 16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.second(torch.relu(self.second(torch.relu(self.first(images))))))
        return self.last(self.line(maps.flatten(2)).mean(2))


def test_a_network_loses_less_than_by_nearest_levels():
    torch.manual_seed(0)
    network = Layers().eval()
    images = F.interpolate(torch.randn(64, 3, 4, 4), 16, mode="bilinear")
    with torch.no_grad():
        wanted = network(images)
    fakes = []
    for layer in (network.first, network.second, network.line, network.last):
        fakes.append(FakeWeight(layer.weight.detach()))
        fakes[-1].unit *= 16  # levels sixteen times as wide, so that rounding is all that is lost
        parametrize.register_parametrization(layer, "weight", _Computed(fakes[-1]), unsafe=True)
    lost = []
    for _ in range(2):
        with torch.no_grad():
            lost.append(float((network(images[32:]) - wanted[32:]).square().mean()))
        assert round_to_inputs(network, images[:32], 16) == 3  # of the 1-D convolution the nearest levels stay
    assert lost[1] < 0.5 * lost[0]
    for fake in fakes:
        assert torch.equal(fake().detach(), fake.levels() * fake.step)
