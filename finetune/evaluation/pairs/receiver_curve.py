"""The receiver operating characteristic (ROC) of scored pairs: TAR at a FAR, equal error rate, area under the curve.

Scores of the two kinds of pairs are sorted once; every figure is then looked up. The curve runs straight between the
points of neighbouring thresholds, as scikit-learn's `roc_curve` and `auc` have it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["ReceiverCurve"]

Scores = NDArray[np.floating]


class ReceiverCurve:
    """Sorted scores of same and different pairs; a pair is accepted above a threshold."""

    def __init__(self, scores: Scores, is_same: NDArray[np.bool_]) -> None:
        """Sort `scores` [P] of pairs, of which `is_same` bool [P] are of one identity."""
        self.same: Scores = np.sort(scores[is_same])
        """Scores of the pairs of one identity, ascending."""
        self.different: Scores = np.sort(scores[~is_same])
        """Scores of the pairs of two identities, ascending."""

    @property
    def empty(self) -> bool:
        """Whether pairs of either kind are lacking, so that no figure is defined."""
        return not len(self.same) or not len(self.different)

    def threshold(self, far: float) -> float:
        """The lowest threshold that at most the share `far` of the different pairs exceeds; -inf if all may."""
        allowed = math.floor(far * len(self.different) * (1 + 1e-12))
        return -math.inf if allowed >= len(self.different) else float(self.different[-1 - allowed])

    def true_accept_rate(self, far: float) -> float:
        """Share of same pairs above `threshold(far)`; NaN without pairs of either kind."""
        if self.empty:
            return math.nan
        return 1 - int(np.searchsorted(self.same, self.threshold(far), side="right")) / len(self.same)

    def points(self) -> tuple[tuple[float, float], ...]:
        """(FAR, TAR) at ten FARs per decade up to 1, from the decade in which one of the different pairs passes."""
        decades = math.ceil(math.log10(max(len(self.different), 1)))
        rates = 10.0 ** (np.arange(-10 * decades, 1) / 10)
        return tuple((float(far), self.true_accept_rate(float(far))) for far in rates)

    def equal_error_rate(self) -> float:
        """The rate at which as many different pairs are accepted as same pairs are refused; NaN without either kind."""
        if self.empty:
            return math.nan
        thresholds = np.unique(np.concatenate([self.same, self.different]))
        # Accepting scores from thresholds[k] on: more of both kinds pass as k falls. The largest k with FAR >= FRR.
        low, high = 0, len(thresholds)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._excess(thresholds[middle])[1] >= 0 else (low, middle)
        far, excess = self._excess(thresholds[low])
        far_above, excess_above = self._excess(thresholds[high]) if high < len(thresholds) else (0.0, -1.0)
        return far + excess / (excess - excess_above) * (far_above - far)

    def area(self) -> float:
        """The area under the curve: how often a same pair scores higher than a different one, equal ones half."""
        if self.empty:
            return math.nan
        below = np.searchsorted(self.different, self.same, side="left").sum(dtype=np.int64)
        not_above = np.searchsorted(self.different, self.same, side="right").sum(dtype=np.int64)
        return float(int(below) + int(not_above)) / (2 * len(self.same) * len(self.different))

    def _excess(self, threshold: float) -> tuple[float, float]:
        """FAR, and FAR less the false reject rate, where scores from `threshold` on are accepted."""
        far = 1 - int(np.searchsorted(self.different, threshold, side="left")) / len(self.different)
        return far, far - int(np.searchsorted(self.same, threshold, side="left")) / len(self.same)
