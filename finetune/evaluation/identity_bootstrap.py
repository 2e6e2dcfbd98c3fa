"""The 95 % bootstrap over identities: how much a mean over images or pairs depends on whom the set happens to show.

Each replicate draws as many identities as there are, with replacement; an image counts once for each time that its
identity was drawn. It covers what other people of the same kind would give.

The interval is the expanded percentile interval: the plain one is as narrow as if the identities' own spread were known
("What Teachers Should Know about the Bootstrap", arXiv:1411.5279), and held the truth in 918 of 1,000 simulated sets.
No replicate can show what few identities do not: of 10 the interval holds the truth in 93 of 100 sets, of 5 in 91, of 3
in 75, of 2 in 47.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from .cores import on_all_cores

__all__ = ["LEVEL", "interval", "resampled_means"]

LEVEL = 0.95
_REPLICATES, _REPLICATES_OF_MANY = 1000, 200
_MANY = 1_000_000
"""Images or pairs beyond which fewer replicates have to do."""
_AT_ONCE = 50


def resampled_means(
    values: NDArray[np.float64], identities: NDArray[np.int64], *, seed: int = 0
) -> NDArray[np.float64]:
    """Means of values float64 [n, k] over R replicates, [R, k]: 1,000, or 200 of over a million rows.

    A replicate without any image gives NaN.

    Args:
        values: Of each image or query.
        identities: int64 [n] whose each is, or [n, 2] of pairs, which count the product for two different ones.
        seed: Seeds the draws: equal seeds draw equal identities, so that two models can be compared.
    """
    people, owner = np.unique(identities, return_inverse=True)
    owner = owner.reshape(identities.shape)
    rng = np.random.default_rng(seed)

    def mean(times: NDArray[np.int64]) -> NDArray[np.float64]:
        weights = times[first] if second is None else times[first] * np.where(first == second, 1, times[second])
        total = int(weights.sum())
        found: NDArray[np.float64] = weights @ values / total if total else np.full(values.shape[1], np.nan)
        return found

    first, second = (owner, None) if owner.ndim == 1 else (owner[:, 0], owner[:, 1])
    replicates = _REPLICATES if len(values) <= _MANY else _REPLICATES_OF_MANY
    means: list[NDArray[np.float64]] = []
    while len(means) < replicates:
        drawn = [rng.integers(0, len(people), len(people)) for _ in range(min(_AT_ONCE, replicates - len(means)))]
        means += on_all_cores(mean, [np.bincount(row, minlength=len(people)) for row in drawn])
    return np.stack(means)


def interval(replicates: NDArray[np.float64], identities: int) -> NDArray[np.float64]:
    """Both ends of the 95 % interval of each column of replicates [R, k], float64 [2, k].

    The share p beyond either end is Phi(-sqrt(n / (n - 1)) t), with Student's t of n - 1 degrees of freedom for n
    identities, at rank p (R + 1) of the replicates; a rank outside them is the outermost.

    Args:
        replicates: Of the metrics; NaN ones do not count.
        identities: How many were drawn for each replicate.
    """
    share = _share_beyond(identities)
    ends: NDArray[np.float64] = np.nanquantile(replicates, [share, 1 - share], axis=0, method="weibull")
    return ends


@functools.cache
def _share_beyond(identities: int) -> float:
    if identities < 2:
        return 0.0
    wider = math.sqrt(identities / (identities - 1)) * _students_bound(identities - 1)
    return NormalDist().cdf(-wider)


def _students_bound(freedom: int) -> float:
    """The t that |T| does not exceed with probability `LEVEL`, T of Student's distribution."""
    low, high = 0.0, math.pi / 2
    while high - low > 1e-12:
        angle = (low + high) / 2
        low, high = (angle, high) if _probability_within(angle, freedom) < LEVEL else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def _probability_within(angle: float, freedom: int) -> float:
    """P(|T| <= sqrt(freedom) tan(angle)): the finite sums 26.7.3 and 26.7.4 of Abramowitz and Stegun's handbook."""
    odd = freedom % 2
    step = 2.0 * np.arange(1, (freedom - odd) // 2)
    ratios = step / (step + 1) if odd else (step - 1) / step
    total = 1 + float(np.cumprod(ratios * math.cos(angle) ** 2).sum())
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * math.cos(angle) * total if freedom > 1 else 0.0))
