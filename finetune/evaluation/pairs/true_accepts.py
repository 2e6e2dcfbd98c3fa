"""TAR@FAR: the share of same pairs that is accepted where a share of the different pairs is accepted too, and its
95 % interval.

The interval is a bootstrap over identities: each replicate draws as many identities as there are, with replacement, and
a pair counts once for each time that its identities were drawn (the product for two different ones), as the pairs of
one person stand or fall together. It covers what other people of the same kind would give, not other thresholds or
images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..cores import Progress, available_cores, no_progress, on_all_cores
from ..identity_bootstrap import interval

__all__ = ["ScoredPairs", "resampled_rates", "true_accept_intervals"]

Indices = NDArray[np.int64]

REPLICATES = 200


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of images with their similarity, and whom they show."""

    scores: NDArray[np.floating]
    """Cosines, or the scores of a matcher, [P]."""
    is_same: NDArray[np.bool_]
    """[P]."""
    identities: Indices
    """int64 [P, 2]: whom the first and the second image show, 0 to n - 1."""

    @property
    def same(self) -> int:
        """Number of pairs of one identity (genuine)."""
        return int(self.is_same.sum())

    @property
    def people(self) -> int:
        """Number of identities."""
        return int(self.identities.max()) + 1

    @property
    def different(self) -> int:
        """Number of pairs of two identities (impostors)."""
        return len(self.is_same) - self.same

    def resolves(self, far: float) -> bool:
        """Whether a FAR can be measured: there are 1 / `far` pairs of two identities, and pairs of one."""
        return self.same > 0 and self.different * far >= 1 - 1e-9


def true_accept_intervals(
    pairs: ScoredPairs, fars: Sequence[float], *, seed: int = 0, report: Progress = no_progress
) -> dict[float, tuple[float, float] | None]:
    """The 95 % bootstrap interval of TAR at each FAR; None where `pairs` do not resolve it.

    Args:
        pairs: As `ReceiverCurve.true_accept_rate` measures them.
        fars: False accept rates, above 0.
        seed: Seeds the draw of identities.
        report: Called with the number of replicates that are done.
    """
    measured = [far for far in fars if pairs.resolves(far)]
    if not measured:
        return dict.fromkeys(fars)
    low, high = interval(resampled_rates([pairs], measured, seed=seed, report=report)[0], pairs.people)
    found = {far: (float(low[n]), float(high[n])) for n, far in enumerate(measured)}
    return {far: found.get(far) for far in fars}


def resampled_rates(
    models: Sequence[ScoredPairs], fars: Sequence[float], *, seed: int = 0, report: Progress = no_progress
) -> NDArray[np.float64]:
    """TAR of each model at each FAR in each replicate, [M, R, F]; the identities of a replicate are all models' own.

    Arguments as of `true_accept_intervals`, the same pairs scored by each model.
    """
    rng = np.random.default_rng(seed)
    resampled = [_Resampled(pairs, np.array(fars)) for pairs in models]
    people = models[0].people
    rates: list[NDArray[np.float64]] = []

    def of_all(times: Indices) -> NDArray[np.float64]:
        return np.stack([each.rates(times) for each in resampled])

    while len(rates) < REPLICATES:
        wanted = min(available_cores(), REPLICATES - len(rates))
        drawn = [np.bincount(rng.integers(0, people, people), minlength=people) for _ in range(wanted)]
        rates += on_all_cores(of_all, drawn)
        report("resampling identities", len(rates), REPLICATES)
    return np.stack(rates, axis=1)


class _Resampled:
    """TAR at some FARs once each identity counts several times or not at all."""

    def __init__(self, pairs: ScoredPairs, fars: NDArray[np.float64]) -> None:
        self._fars = fars * (1 + 1e-12)
        negatives = pairs.scores[~pairs.is_same]
        order = np.argsort(-negatives)
        self._negatives = negatives[order]
        self._first, self._second = pairs.identities[~pairs.is_same][order].T.astype(np.int32)
        by_score = np.argsort(pairs.scores[pairs.is_same])
        self._genuine = pairs.scores[pairs.is_same][by_score]
        self._people = pairs.identities[pairs.is_same][by_score, 0].astype(np.int32)
        # Only the highest scores decide a threshold: as many as a replicate may need, and all where it needs more.
        self._head = min(len(negatives), int(1.5 * fars.max() * len(negatives)) + 1000)

    def rates(self, times: Indices) -> NDArray[np.float64]:
        """TAR at each FAR, [F], where identity n was drawn `times[n]` times; NaN if no pair of a kind is left."""
        drawn = times.astype(np.int32)
        total = sum(
            int(np.dot(drawn[self._first[part]], drawn[self._second[part]].astype(np.int64)))
            for part in _parts(len(self._negatives))
        )
        weights = np.concatenate([[0], np.cumsum(drawn[self._people], dtype=np.int64)])
        if not total or not weights[-1]:
            return np.full(len(self._fars), np.nan)
        allowed = self._fars * total
        passed = self._passed(drawn, self._head)
        if passed[-1] <= allowed.max():
            passed = self._passed(drawn, len(self._negatives))
        # The first negative that must not pass: a same pair is accepted if it is more alike.
        places = np.searchsorted(passed, allowed, side="right")
        refused = np.zeros(len(places), dtype=np.int64)
        known = places < len(self._negatives)
        refused[known] = np.searchsorted(self._genuine, self._negatives[places[known]], side="right")
        rates: NDArray[np.float64] = 1 - weights[refused] / weights[-1]
        return rates

    def _passed(self, times: NDArray[np.int32], count: int) -> Indices:
        passed: Indices = np.cumsum(times[self._first[:count]] * times[self._second[:count]], dtype=np.int64)
        return passed


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, 1 << 18):
        yield slice(start, start + (1 << 18))
