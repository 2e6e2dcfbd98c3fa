"""When to end a search early: by the skips of its cell, or by how sharply its loss bends in alpha.

- skips: DARTS+, Liang et al., arXiv:1909.06035: more than two skips in a normal cell.
- eigenvalue: R-DARTS, Zela et al., arXiv:1909.09656: cells collapse where the largest eigenvalue of the Hessian of the
  validation loss in alpha grows. It is found by power iteration; a product with the Hessian is a central difference of
  two gradients, which needs no second derivatives of the network's operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["MOST_SKIPS", "grown_too_sharp", "largest_eigenvalue"]

MOST_SKIPS = 2
"""Skips in a normal cell beyond which `stop: skips` ends the search."""

_ITERATIONS = 20
_WINDOW = 5
"""Epochs over which eigenvalues are averaged, and the distance between the two means that are compared."""
_RATIO = 0.75
_DISTANCE = 1e-2
"""How far alpha moves for the difference; alphas are of the order of 1."""


def largest_eigenvalue(
    alphas: Sequence[Tensor], gradient: Callable[[], Sequence[Tensor]], *, iterations: int = _ITERATIONS
) -> float:
    """The largest eigenvalue, by absolute value, of the Hessian of a loss in alpha; alpha is left as it was.

    Args:
        alphas: The architecture's parameters.
        gradient: The gradient of the loss at the present alphas; each call must see the same images and draws.
        iterations: Of the power method.
    """
    before = [alpha.detach().clone() for alpha in alphas]
    generator = torch.Generator().manual_seed(0)
    way = [torch.randn(alpha.shape, generator=generator).to(alpha) for alpha in alphas]
    value = 0.0
    try:
        for _ in range(iterations):
            norm = _norm(way)
            if norm == 0.0:
                return 0.0
            way = [each / norm for each in way]
            ahead, behind = (
                _gradient_at(alphas, before, way, distance, gradient) for distance in (_DISTANCE, -_DISTANCE)
            )
            product = [(a - b) / (2 * _DISTANCE) for a, b in zip(ahead, behind, strict=True)]
            value = float(sum((p * w).sum() for p, w in zip(product, way, strict=True)))
            way = product
    finally:
        with torch.no_grad():
            for alpha, kept in zip(alphas, before, strict=True):
                alpha.copy_(kept)
    return value


def grown_too_sharp(eigenvalues: Sequence[float]) -> bool:
    """Whether the mean of the last 5 eigenvalues, by absolute value, is more than 4/3 of that of 5 epochs before."""
    if len(eigenvalues) < 2 * _WINDOW:
        return False
    sizes = [abs(value) for value in eigenvalues]
    now, then = sum(sizes[-_WINDOW:]), sum(sizes[-2 * _WINDOW : -_WINDOW])
    return then < _RATIO * now


def _gradient_at(
    alphas: Sequence[Tensor],
    before: Sequence[Tensor],
    way: Sequence[Tensor],
    distance: float,
    gradient: Callable[[], Sequence[Tensor]],
) -> list[Tensor]:
    with torch.no_grad():
        for alpha, kept, each in zip(alphas, before, way, strict=True):
            alpha.copy_(kept + distance * each)
    return [each.detach().clone() for each in gradient()]


def _norm(way: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(each.double().square().sum()) for each in way))
