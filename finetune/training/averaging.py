"""Exponential moving average of a backbone: its parameters and its floating point buffers (BatchNorm statistics).

average = decay * average + (1 - decay) * value after every step, as in Tarvainen and Valpola, "Mean teachers are better
role models", arXiv:1703.01780. FastReID's mean teacher leaves the BatchNorm statistics out, so they do not belong to
the averaged weights; here they are averaged as well. With a warm-up the decay of step n, counted from 0, is
min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage with `num_updates`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..config.optimization import OptimizerConfig, average_decay

__all__ = ["WeightAverage", "average_of"]

_STEPS = "steps"
"""In a saved state, the number of updates so far; no tensor of a module has a name without a dot or this one."""


class WeightAverage:
    """The average of one module, by tensor name."""

    def __init__(self, module: nn.Module, decay: float, *, warmup: bool = False) -> None:
        self._decay, self._warmup, self._steps = decay, warmup, 0
        self.tensors = {name: value.detach().clone() for name, value in _floating(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's present values; called after each step."""
        values = [value.detach() for value in _floating(module).values()]
        decay = average_decay(self._decay, self._steps, warmup=self._warmup)
        torch._foreach_lerp_(list(self.tensors.values()), values, 1 - decay)
        self._steps += 1

    def state(self) -> dict[str, Tensor]:
        """The averages by tensor name, and with a warm-up the number of updates under `_STEPS`."""
        return self.tensors | ({_STEPS: torch.tensor(self._steps)} if self._warmup else {})

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy what `state` gave into this one; without a number of updates the warm-up counts as done."""
        for name, value in self.tensors.items():
            value.copy_(tensors[name])
        self._steps = int(tensors[_STEPS]) if _STEPS in tensors else 2**31

    @contextmanager
    def applied_to(self, module: nn.Module) -> Iterator[None]:
        """Within the context, `module` holds the average; after it, its own values again."""
        own = {name: value.detach().clone() for name, value in _floating(module).items()}
        _copy_into(module, self.tensors)
        try:
            yield
        finally:
            _copy_into(module, own)


def average_of(module: nn.Module, config: OptimizerConfig) -> WeightAverage | None:
    """The average that a configuration asks for; None where it keeps none."""
    return WeightAverage(module, config.ema, warmup=config.ema_warmup) if config.ema else None


def _floating(module: nn.Module) -> dict[str, Tensor]:
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: value for name, value in named.items() if value.is_floating_point()}


@torch.no_grad()
def _copy_into(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for name, value in _floating(module).items():
        value.copy_(tensors[name])
