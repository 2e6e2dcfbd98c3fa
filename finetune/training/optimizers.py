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
from ..network.product_factors import product_factors

__all__ = ["build_optimizer", "load_optimizer_state", "optimizer_state", "set_learning_rates"]


def build_optimizer(
    config: OptimizerConfig, backbone: nn.Module, heads: nn.Module
) -> tuple[torch.optim.Optimizer, dict[str, nn.Parameter]]:
    """The optimizer, and its parameters by name (`backbone.*`, `heads.*`), among them frozen ones.

    What is not a factor of a product (scales and biases of norms, other biases, PReLU slopes, embeddings of positions)
    gets no weight decay unless `decay_norms` is set.

    Raises:
        ConfigError: a pattern of `lr_multipliers` matches no parameter.
    """
    names = dict(backbone.named_parameters())
    check_patterns("optimizer.lr_multipliers", config.lr_multipliers, names)
    decaying = {id(factor) for part in (backbone, heads) for factor in product_factors(part)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}

    def place(parameter: nn.Parameter, lr: float) -> None:
        decays = config.decay_norms or id(parameter) in decaying
        groups.setdefault((lr, config.weight_decay if decays else 0.0), []).append(parameter)

    for name, parameter in names.items():
        place(parameter, config.lr * _multiplier(config.lr_multipliers, name))
    for parameter in heads.parameters():
        place(parameter, config.head_lr or config.lr)
    entries = [
        {"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]
    # Fewer kernel launches: each step waits for its gradient norm first, so the GPU may be idle meanwhile.
    fused = all(parameter.is_cuda for parameters in groups.values() for parameter in parameters) or None
    optimizer = _optimizer(config, entries, fused)
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
            state[key] = value.to(parameter.device if optimizer.defaults.get("fused") else "cpu", copy=True)
    if isinstance(optimizer, torch.optim.RMSprop) and optimizer.defaults["momentum"]:
        for moved, known in optimizer.state.items():  # of a run that had none before
            known.setdefault("momentum_buffer", torch.zeros_like(moved))


def _multiplier(multipliers: Mapping[str, float], name: str) -> float:
    factor = 1.0
    for pattern, value in multipliers.items():
        if matches(name, pattern):
            factor = value
    return factor


def _optimizer(config: OptimizerConfig, entries: list[dict[str, Any]], fused: bool | None) -> torch.optim.Optimizer:
    match config.kind:
        case "sgd":
            return torch.optim.SGD(
                entries, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused
            )
        case "adamw":
            return torch.optim.AdamW(entries, lr=config.lr, fused=fused)
        case "adam" | "amsgrad":
            return torch.optim.Adam(entries, lr=config.lr, amsgrad=config.kind == "amsgrad", fused=fused)
        case "rmsprop":
            return torch.optim.RMSprop(entries, lr=config.lr, momentum=config.momentum)
