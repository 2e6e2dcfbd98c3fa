"""Optimizers for some rows of a matrix: each row moves as it would alone under torch.optim, at the steps that use it.

PartialFC updates the rows of the classes that a step samples. Momentum, moments and, for Adam's bias correction, the
number of steps belong to the row: a row that is sampled rarely is not treated as if its zero gradients had been steps.
Formulas as in torch.optim: SGD with (Nesterov's) momentum; Adam, Kingma and Ba, arXiv:1412.6980; AdamW, Loshchilov and
Hutter, arXiv:1711.05101; AMSGrad, Reddi et al., arXiv:1904.09237; RMSprop, Hinton, lecture notes 2012, and Graves,
arXiv:1308.0850, without centring.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..config.optimization import OptimizerConfig

__all__ = ["row_state", "update_rows"]

_STATES: Mapping[str, tuple[str, ...]] = {
    "sgd": ("momentum",),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "adam": ("exp_avg", "exp_avg_sq"),
    "amsgrad": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    "rmsprop": ("square_avg", "momentum"),
}
_BETAS, _ALPHA, _EPSILON = (0.9, 0.999), 0.99, 1e-8
"""The defaults of torch.optim, which `build_optimizer` uses as well."""


def row_state(config: OptimizerConfig, weight: Tensor) -> dict[str, Tensor]:
    """The state of rows [n, D] before their first step, by name: zeros [n, D], and for Adam steps float32 [n, 1]."""
    state = {name: torch.zeros_like(weight) for name in _STATES[config.kind]}
    if "exp_avg" in state:
        state["steps"] = torch.zeros(len(weight), 1, device=weight.device)
    return state


@torch.no_grad()
def update_rows(
    config: OptimizerConfig, rows: Tensor, gradient: Tensor, state: Mapping[str, Tensor], *, lr: float
) -> None:
    """Move rows [n, D] and their state by one step at the learning rate `lr`; both are changed in place.

    Args:
        config: Kind, momentum and weight decay.
        rows: The weights of the rows.
        gradient: Their gradient [n, D].
        state: As `row_state` gives it, of these rows.
        lr: Learning rate of this step.
    """
    if config.kind == "adamw":
        rows.mul_(1 - lr * config.weight_decay)
    elif config.weight_decay:
        gradient = gradient.add(rows, alpha=config.weight_decay)
    match config.kind:
        case "sgd":
            velocity = state["momentum"].mul_(config.momentum).add_(gradient)
            step = gradient.add(velocity, alpha=config.momentum) if config.nesterov else velocity
        case "rmsprop":
            square = state["square_avg"].mul_(_ALPHA).addcmul_(gradient, gradient, value=1 - _ALPHA)
            step = state["momentum"].mul_(config.momentum).add_(gradient / square.sqrt().add_(_EPSILON))
        case _:
            step = _adam_step(gradient, state)
    rows.sub_(step, alpha=lr)


def _adam_step(gradient: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    mean = state["exp_avg"].lerp_(gradient, 1 - _BETAS[0])
    square = state["exp_avg_sq"].mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
    steps = state["steps"].add_(1).double()  # in float32, 1 - 0.999 would have four digits
    if "max_exp_avg_sq" in state:
        square = torch.maximum(state["max_exp_avg_sq"], square, out=state["max_exp_avg_sq"])
    corrections = [(1 - beta**steps).to(gradient.dtype) for beta in _BETAS]
    return mean / corrections[0] / (square.sqrt() / corrections[1].sqrt() + _EPSILON)
