"""The 95 % bootstrap over identities: how much a mean over images or pairs depends on whom the set happens to show.

Each replicate draws as many identities as there are, with replacement; an image counts once for each time that its
identity was drawn. It covers what other people of the same kind would give.
"""

from __future__ import annotations

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


def interval(replicates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Both ends of the 95 % interval of each column of replicates [R, k], float64 [2, k]."""
    ends: NDArray[np.float64] = np.nanpercentile(replicates, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=0)
    return ends
