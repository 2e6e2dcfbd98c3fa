"""Exponential moving average of a backbone: its parameters and its floating point buffers (BatchNorm statistics).

average = decay * average + (1 - decay) * value after every step, as in Tarvainen and Valpola, "Mean teachers are better
role models", arXiv:1703.01780. FastReID's mean teacher leaves the BatchNorm statistics out, so they do not belong to
the averaged weights; here they are averaged as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """The average of one module, by tensor name."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self.tensors = {name: value.detach().clone() for name, value in _floating(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's present values; called after each step."""
        values = [value.detach() for value in _floating(module).values()]
        torch._foreach_lerp_(list(self.tensors.values()), values, 1 - self._decay)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy saved averages, by tensor name, into this one."""
        for name, value in self.tensors.items():
            value.copy_(tensors[name])

    @contextmanager
    def applied_to(self, module: nn.Module) -> Iterator[None]:
        """Within the context, `module` holds the average; after it, its own values again."""
        own = {name: value.detach().clone() for name, value in _floating(module).items()}
        _copy_into(module, self.tensors)
        try:
            yield
        finally:
            _copy_into(module, own)


def _floating(module: nn.Module) -> dict[str, Tensor]:
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: value for name, value in named.items() if value.is_floating_point()}


@torch.no_grad()
def _copy_into(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for name, value in _floating(module).items():
        value.copy_(tensors[name])
