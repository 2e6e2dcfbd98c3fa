"""The gradient of alpha against an oracle by hand and against the exact derivative through w'(a)."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtool.finetune.search.bilevel import WeightStep, first_order, second_order, sgd_step, statistics_restored


def test_second_order_is_the_oracle_of_two_parabolas():
    # L_train = (w - a)^2 / 2, L_val = (w - 1)^2 / 2, w = 0, a = 2, xi = .1: w' = .2, u = -.8, dw'/da = .1, d_a = -.08.
    weight = torch.zeros((), dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    step = WeightStep(rates=[0.1], decays=[0.0], momentum=0.0, velocities=[None])

    (found,) = second_order(
        [alpha],
        [weight],
        lambda: (weight - alpha) ** 2 / 2,
        lambda: (weight - 1) ** 2 / 2 + 0 * alpha,
        step,
    )

    assert found.item() == pytest.approx(-0.08, abs=1e-12)
    assert weight.item() == 0.0


class Mixture(nn.Module):
    """Two layers of three operations, mixed by softmax."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.layers = nn.ParameterList(
            nn.Parameter(torch.randn(5, 5, generator=generator, dtype=torch.float64).to(dtype) * 0.4) for _ in range(4)
        )

    def forward(self, values: Tensor, alphas: list[Tensor]) -> Tensor:
        for alpha, (first, second) in zip(alphas, list(pairwise(self.layers))[::2], strict=True):
            share = alpha.softmax(0)
            values = share[0] * values + share[1] * torch.tanh(values @ first) + share[2] * F.silu(values @ second)
        return values


def bilevel_problem(dtype: torch.dtype) -> tuple[Mixture, list[Tensor], list[Tensor], Callable[..., Tensor]]:
    generator = torch.Generator().manual_seed(2)
    sets = [torch.randn(2, 12, 5, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]
    alphas = [torch.randn(3, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(2)]
    network = Mixture(dtype)

    def loss(which: int, weights: list[Tensor] | None = None) -> Tensor:
        values, wanted = sets[which]
        if weights is None:
            return F.mse_loss(network(values, alphas), wanted)
        named = {f"layers.{number}": weight for number, weight in enumerate(weights)}
        return F.mse_loss(torch.func.functional_call(network, named, (values, alphas)), wanted)

    return network, list(network.parameters()), alphas, loss


def exact_gradient(
    weights: list[Tensor], alphas: list[Tensor], loss: Callable[..., Tensor], step: WeightStep
) -> Tensor:
    """Through w'(a), by differentiating the step itself."""
    gradients = torch.autograd.grad(loss(0), weights, create_graph=True)
    moved = []
    for weight, gradient, rate, decay, velocity in zip(
        weights, gradients, step.rates, step.decays, step.velocities, strict=True
    ):
        way = gradient + decay * weight + (0.0 if velocity is None else step.momentum * velocity)
        moved.append(weight - rate * way)
    return torch.cat(torch.autograd.grad(loss(1, moved), alphas))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-4), (torch.float32, 1e-3)])
def test_the_difference_is_near_the_exact_gradient_and_ten_times_nearer_than_first_order(momentum, dtype, most):
    _, weights, alphas, loss = bilevel_problem(dtype)
    velocities = [torch.full_like(weight, 0.1) if momentum else None for weight in weights]
    rates = [0.2, 0.1, 0.2, 0.1]  # as with optimizer.lr_multipliers
    step = WeightStep(rates=rates, decays=[0.01, 0.0, 0.01, 0.01], momentum=momentum, velocities=velocities)
    before = [weight.detach().clone() for weight in weights]
    exact = exact_gradient(weights, alphas, loss, step)

    second = torch.cat(second_order(alphas, weights, lambda: loss(0), lambda: loss(1), step))
    first = torch.cat(first_order(alphas, lambda: loss(1)))

    error = ((second - exact).norm() / exact.norm()).item()
    assert error < most
    assert error * 10 < ((first - exact).norm() / exact.norm()).item()
    assert all(torch.equal(weight, value) for weight, value in zip(weights, before, strict=True))


def test_the_step_is_that_of_torchs_sgd():
    network, weights, alphas, loss = bilevel_problem(torch.float64)
    groups = [
        {"params": weights[:2], "lr": 0.05, "peak_lr": 0.1, "weight_decay": 0.01},
        {"params": weights[2:], "lr": 0.02, "peak_lr": 0.04, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    for turn in range(3):  # at step 0 there is no momentum buffer
        step = sgd_step(optimizer, weights, 0.5)
        before = [weight.detach().clone() for weight in weights]
        met: list[list[Tensor]] = []

        def validation(met: list[list[Tensor]] = met) -> Tensor:
            met.append([weight.detach().clone() for weight in weights])
            return loss(1)

        second_order(alphas, weights, lambda: loss(0), validation, step)
        assert all(torch.equal(weight, value) for weight, value in zip(weights, before, strict=True))
        optimizer.zero_grad()
        loss(0).backward()
        optimizer.step()

        for weight, virtual in zip(weights, met[0], strict=True):
            torch.testing.assert_close(virtual, weight.detach(), rtol=1e-12, atol=1e-14, msg=f"step {turn}")
    assert len(list(network.parameters())) == 4


def test_weights_that_take_no_part_stay_where_they_are():
    _, weights, alphas, loss = bilevel_problem(torch.float64)
    idle = torch.ones(3, dtype=torch.float64, requires_grad=True)
    alone = WeightStep(rates=[0.1] * 4, decays=[0.1] * 4, momentum=0.0, velocities=[None] * 4)
    beside = WeightStep(rates=[0.1] * 5, decays=[0.1] * 5, momentum=0.0, velocities=[None] * 5)

    expected = second_order(alphas, weights, lambda: loss(0), lambda: loss(1), alone)
    found = second_order(alphas, [*weights, idle], lambda: loss(0), lambda: loss(1), beside)

    assert all(torch.equal(each, other) for each, other in zip(found, expected, strict=True))


def test_statistics_of_batchnorms_are_put_back():
    layer = nn.BatchNorm1d(3, affine=False).train()
    layer(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    before = {name: value.clone() for name, value in layer.named_buffers()}

    with statistics_restored(layer):
        layer(torch.randn(8, 3, generator=torch.Generator().manual_seed(1)) + 5)
        assert not torch.equal(layer.running_mean, before["running_mean"])

    assert all(torch.equal(value, before[name]) for name, value in layer.named_buffers())
