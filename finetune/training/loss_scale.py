"""The factor on a float16 loss that keeps small gradients from underflowing to zero, adapted during training.

It doubles after 2000 good steps in a row and halves after one whose gradient was not finite, as torch's GradScaler
does (Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740). GradScaler checks the optimizer's parameters
itself; here the caller passes whether the step was finite, so that shards of PartialFC, which are outside the
optimizer, count too, and a step works in which only they learn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["LossScale"]

_FIRST = 2.0**16
_GOOD_STEPS = 2000
"""Good steps in a row before the scale doubles."""


class LossScale:
    """A power of 2, so that scaling back is exact; 1 throughout when not `enabled`."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.value = _FIRST if enabled else 1.0
        self._good_steps = 0

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Divide gradients by the scale, in place."""
        if self.enabled and gradients:
            torch._foreach_mul_(list(gradients), 1 / self.value)

    def update(self, *, finite: bool) -> None:
        """Adapt the scale after a step; `finite`: whether all its gradients were."""
        if not self.enabled:
            return
        self._good_steps = self._good_steps + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self._good_steps == _GOOD_STEPS:
            self.value, self._good_steps = self.value * 2, 0

    def state(self) -> Tensor:
        """For a checkpoint: float64 [2], the scale and the good steps since it moved."""
        return torch.tensor([self.value, self._good_steps], dtype=torch.float64)

    def load(self, state: Tensor) -> None:
        """The inverse of `state`."""
        if self.enabled:
            value, good_steps = state.tolist()
            self.value, self._good_steps = value, int(good_steps)
