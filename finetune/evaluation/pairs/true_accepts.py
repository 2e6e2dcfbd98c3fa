"""TAR@FAR: the share of same pairs that is accepted where a share of the different pairs is accepted too, and its
95 % interval.

The interval is a bootstrap over identities: each replicate draws as many identities as there are, with replacement, and
a pair counts once for each time that its identities were drawn (the product for two different ones), as the pairs of
one person stand or fall together. It covers what other people of the same kind would give, not other thresholds or
images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ScoredPairs", "roc_curve", "true_accept_intervals", "true_accept_rate"]

Indices = NDArray[np.int64]
Scores = NDArray[np.floating]

REPLICATES = 200
LEVEL = 0.95


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of images with their similarity, and whom they show."""

    scores: NDArray[np.float32]
    """Cosines [P]."""
    is_same: NDArray[np.bool_]
    """[P]."""
    identities: Indices
    """int64 [P, 2]: whom the first and the second image show, 0 to n - 1."""

    @property
    def same(self) -> int:
        """Number of pairs of one identity (genuine)."""
        return int(self.is_same.sum())

    @property
    def different(self) -> int:
        """Number of pairs of two identities (impostors)."""
        return len(self.is_same) - self.same

    def resolves(self, far: float) -> bool:
        """Whether a FAR can be measured: there are 1 / `far` pairs of two identities, and pairs of one."""
        return self.same > 0 and self.different * far >= 1 - 1e-9


def true_accept_rate(scores: Scores, is_same: NDArray[np.bool_], far: float) -> float:
    """Share of same pairs above the lowest threshold that at most the share `far` of the different pairs exceeds.

    NaN without pairs of either kind.
    """
    negatives = np.sort(scores[~is_same])[::-1]
    if not negatives.size or not is_same.any():
        return float("nan")
    allowed = int(np.floor(far * negatives.size))
    if allowed >= negatives.size:
        return 1.0
    return float((scores[is_same] > negatives[allowed]).mean())


def roc_curve(scores: Scores, is_same: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    """(FAR, TAR) at ten FARs per decade up to 1, from the decade in which one of the different pairs passes.

    Args:
        scores: Cosines [P].
        is_same: Which pairs are of one identity, bool [P].
    """
    decades = math.ceil(math.log10(max(int((~is_same).sum()), 1)))
    rates = 10.0 ** (np.arange(-10 * decades, 1) / 10)
    return tuple((float(far), true_accept_rate(scores, is_same, float(far))) for far in rates)


def true_accept_intervals(
    pairs: ScoredPairs, fars: Sequence[float], *, seed: int = 0
) -> dict[float, tuple[float, float] | None]:
    """The 95 % bootstrap interval of TAR at each FAR; None where `pairs` do not resolve it.

    Args:
        pairs: As `true_accept_rate` measures them.
        fars: False accept rates, above 0.
        seed: Seeds the draw of identities.
    """
    measured = [far for far in fars if pairs.resolves(far)]
    if not measured:
        return dict.fromkeys(fars)
    rng = np.random.default_rng(seed)
    order = np.argsort(-pairs.scores[~pairs.is_same], kind="stable")
    negatives = pairs.scores[~pairs.is_same][order]
    first, second = pairs.identities[~pairs.is_same][order].T.astype(np.int32)
    genuine, of = pairs.scores[pairs.is_same], pairs.identities[pairs.is_same][:, 0]
    people = int(pairs.identities.max()) + 1
    rates = np.full((REPLICATES, len(measured)), np.nan)
    for replicate in rates:
        times = np.bincount(rng.integers(0, people, people), minlength=people).astype(np.int32)
        weights, counts = times[of], times[first] * times[second]
        if not counts.any() or not weights.any():
            continue
        passed = np.cumsum(counts, dtype=np.int64)
        # The first negative that must not pass: a same pair is accepted if it is more alike.
        places = np.searchsorted(passed, np.array(measured) * passed[-1] * (1 + 1e-12), side="right")
        for number, place in enumerate(places):
            accepted = genuine > negatives[place] if place < len(negatives) else np.ones(len(genuine), dtype=bool)
            replicate[number] = weights[accepted].sum() / weights.sum()
    low, high = np.nanpercentile(rates, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=0)
    found = {far: (float(low[n]), float(high[n])) for n, far in enumerate(measured)}
    return {far: found.get(far) for far in fars}
