"""The optimizer of a learner: parameter groups, weight decay, rates by pattern, and its state as named tensors.

Each group keeps its peak rate under `peak_lr`; the schedule sets `lr` from it before every step. State is saved by
parameter name, not by position, so that it survives a change of grouping, and without pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..config.config import OptimizerConfig
from ..config.name_patterns import check_patterns, matches

__all__ = ["build_optimizer", "load_optimizer_state", "optimizer_state", "set_learning_rates"]


def build_optimizer(
    config: OptimizerConfig, backbone: nn.Module, heads: nn.Module
) -> tuple[torch.optim.Optimizer, dict[str, nn.Parameter]]:
    """The optimizer, and its parameters by name (`backbone.*`, `heads.*`), among them frozen ones.

    Vectors (scales and biases of norms, other biases, PReLU slopes) get no weight decay unless `decay_norms` is set.

    Raises:
        ConfigError: a pattern of `lr_multipliers` matches no parameter.
    """
    names = dict(backbone.named_parameters())
    check_patterns("optimizer.lr_multipliers", config.lr_multipliers, names)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in names.items():
        lr = config.lr * _multiplier(config.lr_multipliers, name)
        groups.setdefault((lr, _decay(config, parameter)), []).append(parameter)
    for parameter in heads.parameters():
        groups.setdefault((config.head_lr or config.lr, _decay(config, parameter)), []).append(parameter)
    entries = [
        {"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]
    # Fewer kernel launches: each step waits for its gradient norm first, so the GPU may be idle meanwhile.
    fused = all(parameter.is_cuda for parameters in groups.values() for parameter in parameters) or None
    optimizer: torch.optim.Optimizer
    if config.kind == "sgd":
        optimizer = torch.optim.SGD(entries, lr=config.lr, momentum=config.momentum, fused=fused)
    else:
        optimizer = torch.optim.AdamW(entries, lr=config.lr, fused=fused)
    named = {f"backbone.{name}": parameter for name, parameter in names.items()}
    named.update({f"heads.{name}": parameter for name, parameter in heads.named_parameters()})
    return optimizer, named


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def optimizer_state(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's state tensors by `parameter name/state name`."""
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, parameter in named.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put the tensors that `optimizer_state` gave back into an optimizer with parameters of the same names."""
    for path, value in tensors.items():
        name, _, key = path.rpartition("/")
        parameter = named[name]
        state: dict[str, Any] = optimizer.state[parameter]
        # In the parameter's memory order: with another the optimizer is slower on a GPU.
        if value.ndim > 0:
            state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        else:  # counts of steps, which a fused optimizer keeps on the device and others on the CPU
            state[key] = value.to(parameter.device if optimizer.defaults["fused"] else "cpu", copy=True)


def _multiplier(multipliers: Mapping[str, float], name: str) -> float:
    factor = 1.0
    for pattern, value in multipliers.items():
        if matches(name, pattern):
            factor = value
    return factor


def _decay(config: OptimizerConfig, parameter: nn.Parameter) -> float:
    """Weight decay of a parameter; scales of norms, biases and PReLU slopes have one axis at most."""
    return config.weight_decay if parameter.ndim > 1 or config.decay_norms else 0.0
