"""Choose variance and gamma so that a BatchNorm scales by exactly 1, not just up to rounding.

BatchNorm computes alpha = gamma * (1 / sqrt(var + eps)) in its own precision. With gamma as the rounded square root,
alpha misses 1 by up to two units in the last place; over twenty layers that adds up to more than 1e-6. The variance
is a measured estimate, so changing it by at most a thousandth of var + eps does no harm. Among such neighbours one is
chosen for which alpha is 1 as the CPU computes it, and gamma^2 is as near to var + eps as possible, so that folding
the untrained BatchNorm gives the original weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["exact_scale"]

_STEPS = (*range(0, 512, 2), *range(512, 8192, 32))
"""Steps from the variance to try, in units in the last place; just below a power of two only large ones fit."""


def exact_scale(variance: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`(variance', gamma)`, each [C] like `variance`, with which BatchNorm scales by exactly 1 where possible."""
    steps = torch.tensor(_STEPS, dtype=torch.float64, device=variance.device)
    nudges = steps.view(-1, 1) * torch.finfo(variance.dtype).eps * (variance.double() + eps)
    candidates = (variance.double() + nudges).to(variance.dtype)  # [neighbours, C]
    exact = (candidates.double() + eps).sqrt()
    gamma = exact.to(variance.dtype)
    alpha = gamma * (candidates + eps).rsqrt()
    miss = (gamma.double() / exact - 1).abs() + (alpha != 1)
    best = miss.argmin(dim=0, keepdim=True)
    return candidates.gather(0, best)[0], gamma.gather(0, best)[0]
