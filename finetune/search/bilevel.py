"""The gradient of alpha: the loss on alpha's own images after a step of the weights, in first and in second order.

DARTS, Liu et al., arXiv:1806.09055. With the weights w, their velocity v, weight decay l and learning rate xi of SGD:

    w' = w - xi (m v + grad_w L_train(w, a) + l w)
    d_a = grad_a L_val(w', a) - xi grad_a grad_w L_train(w, a) . u,    u = grad_w' L_val(w', a)

and the product with the mixed derivative by a central difference, eps = .01 / |u|:

    xi (grad_a L_train(w + eps u, a) - grad_a L_train(w - eps u, a)) / (2 eps)

First order takes w' = w. Rates may differ between weights: then s = xi u stands for u, and there is no xi before the
difference. Several processes average grad_w L_train, g and u before eps is computed from u, then each gradient at
w + eps u and w - eps u, so that all of them get the same bits. The weights are copied back afterwards, not subtracted:
w + x - x is not w in floating point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["WeightStep", "first_order", "second_order", "sgd_step", "statistics_restored"]

_DISTANCE = 0.01
"""|eps u|: how far the weights move for the central difference."""

Loss = Callable[[], Tensor]
Average = Callable[[Sequence[Tensor]], list[Tensor]]
"""From gradients of this process to their means over all processes."""


@dataclass(frozen=True)
class WeightStep:
    """The step of SGD that the weights are about to make; sequences have one entry per weight."""

    rates: Sequence[float]
    """xi, the learning rate."""
    decays: Sequence[float]
    """Weight decay, as part of the gradient."""
    momentum: float
    velocities: Sequence[Tensor | None]
    """The momentum buffers; None before the first step."""


def sgd_step(optimizer: torch.optim.Optimizer, weights: Sequence[Tensor], factor: float) -> WeightStep:
    """The next step of torch's SGD over `weights`, its learning rates `factor` times the peaks of their groups."""
    groups = {id(each): group for group in optimizer.param_groups for each in group["params"]}
    own = [groups[id(weight)] for weight in weights]
    return WeightStep(
        rates=[group["peak_lr"] * factor for group in own],
        decays=[group["weight_decay"] for group in own],
        momentum=optimizer.param_groups[0]["momentum"],
        velocities=[optimizer.state.get(weight, {}).get("momentum_buffer") for weight in weights],
    )


def _as_they_are(gradients: Sequence[Tensor]) -> list[Tensor]:
    return list(gradients)


def first_order(alphas: Sequence[Tensor], validation: Loss, average: Average = _as_they_are) -> list[Tensor]:
    """grad_a L_val(w, a), one tensor per tensor of `alphas`.

    Args:
        alphas: The architecture's parameters.
        validation: The loss on alpha's images.
        average: Means over processes.
    """
    return average(torch.autograd.grad(validation(), list(alphas)))


def second_order(
    alphas: Sequence[Tensor],
    weights: Sequence[Tensor],
    training: Loss,
    validation: Loss,
    step: WeightStep,
    *,
    average: Average = _as_they_are,
    alike: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> list[Tensor]:
    """d_a with the second-order term, one tensor per tensor of `alphas`; the weights are left as they were to the bit.

    Args:
        alphas: The architecture's parameters.
        weights: Leaves that require gradients; those that a loss does not depend on do not move.
        training: The loss on the weights' images.
        validation: The loss on alpha's images.
        step: The step whose result is w'.
        average: Means over processes.
        alike: The context of each of the two passes of the difference; it must let both draw the same random numbers.
    """
    before = [weight.detach().clone() for weight in weights]
    try:
        pull = _filled(average, torch.autograd.grad(training(), list(weights), allow_unused=True), weights)
        with torch.no_grad():
            for number, (weight, gradient) in enumerate(zip(weights, pull, strict=True)):
                if gradient is not None:
                    weight -= step.rates[number] * _direction(step, number, weight, gradient)
        found = torch.autograd.grad(validation(), [*alphas, *weights], allow_unused=True)
        direct = average([_or_zero(each, alpha) for each, alpha in zip(found, alphas, strict=False)])
        slopes = _filled(average, found[len(alphas) :], weights)
        # A weight that the step does not move hands nothing of alpha on.
        along = [
            None if slope is None or gradient is None else rate * slope
            for slope, gradient, rate in zip(slopes, pull, step.rates, strict=True)
        ]
        norm = torch.stack([each.square().sum() for each in along if each is not None]).sum().sqrt()
        eps = _DISTANCE / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        above = _moved_gradient(alphas, weights, before, along, eps, training, average, alike)
        below = _moved_gradient(alphas, weights, before, along, -eps, training, average, alike)
    finally:
        _put_back(weights, before)
    return [d - (a - b) / (2 * eps) for d, a, b in zip(direct, above, below, strict=True)]


@contextmanager
def statistics_restored(module: nn.Module) -> Iterator[None]:
    """Put the buffers of `module` back afterwards: passes for alpha must not move the statistics of BatchNorms."""
    buffers = list(module.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


def _direction(step: WeightStep, number: int, weight: Tensor, gradient: Tensor) -> Tensor:
    """M v + gradient + l w of one weight."""
    moved = gradient + step.decays[number] * weight
    velocity = step.velocities[number]
    return moved if velocity is None else moved + step.momentum * velocity


def _moved_gradient(
    alphas: Sequence[Tensor],
    weights: Sequence[Tensor],
    before: Sequence[Tensor],
    along: Sequence[Tensor | None],
    eps: Tensor,
    training: Loss,
    average: Average,
    alike: Callable[[], AbstractContextManager[object]],
) -> list[Tensor]:
    """grad_a L_train at the weights moved by eps along a direction."""
    _put_back(weights, before)
    with torch.no_grad():
        for weight, way in zip(weights, along, strict=True):
            if way is not None:
                weight += eps * way
    with alike():
        found = torch.autograd.grad(training(), list(alphas), allow_unused=True)
    return average([_or_zero(each, alpha) for each, alpha in zip(found, alphas, strict=True)])


@torch.no_grad()
def _put_back(weights: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    for weight, value in zip(weights, before, strict=True):
        weight.copy_(value)


def _or_zero(gradient: Tensor | None, alpha: Tensor) -> Tensor:
    """A loss that does not depend on alpha, such as one of a single operation per edge, has the gradient zero."""
    return torch.zeros_like(alpha) if gradient is None else gradient


def _filled(average: Average, gradients: Sequence[Tensor | None], weights: Sequence[Tensor]) -> list[Tensor | None]:
    """Means over processes, with None in the places of weights that took no part, the same ones on all of them."""
    known = [each for each in gradients if each is not None]
    means = iter(average(known))
    return [None if each is None else next(means) for each, _ in zip(gradients, weights, strict=True)]
