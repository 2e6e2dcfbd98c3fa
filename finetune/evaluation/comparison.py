"""Two models on the same images: how far they differ, and whether that is more than noise.

The difference of each metric has a 95 % interval by a paired bootstrap: each replicate draws identities, and both
models are measured on the same ones, so what makes a set hard for both cancels out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from .cores import Progress, no_progress
from .identity_bootstrap import interval, resampled_means
from .measuring import Measured, measured_values
from .pairs.folds import fold_decisions
from .pairs.true_accepts import resampled_rates
from .pairs.verification import TRUE_ACCEPTS, ComparedPairs
from .ranks.retrieval import RETRIEVAL_METRICS

__all__ = ["NOISE", "Difference", "compare_measured"]

NOISE = "no difference beyond noise"


@dataclass(frozen=True)
class Difference:
    """One metric of two models."""

    metric: str
    value: float
    """Of the model."""
    other: float
    """Of the model it is compared with."""
    low: float
    """Lower end of the 95 % interval of `value - other`."""
    high: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        verdict = ("better" if self.value > self.other else "worse") if self.beyond_noise else NOISE
        return (
            f"{self.value:.4f} against {self.other:.4f}: {self.value - self.other:+.4f}  "
            f"(95 %: {self.low:+.4f} to {self.high:+.4f})  {verdict}"
        )


def compare_measured(one: Measured, other: Measured, progress: Progress = no_progress) -> tuple[Difference, ...]:
    """The differences of two models that were measured on the same images.

    Raises:
        ConfigError: the protocol knows no identities to draw.
    """
    if one.ranked is not None and other.ranked is not None:
        identities = one.ranked.identities[one.ranked.ranks.measured]
        means = [resampled_means(each.per_query(), identities) for each in (one.ranked, other.ranked)]
        return _differences(RETRIEVAL_METRICS, one, other, means[0] - means[1], len(np.unique(identities)))
    if one.compared is not None and other.compared is not None:
        return _of_pairs(one, one.compared, other, other.compared, progress)
    raise ConfigError(
        f"--against: {one.dataset.name} is measured by {one.plan.protocol}, which has no interval; only retrieval and "
        "verification compare two models"
    )


def _of_pairs(
    one: Measured, own: ComparedPairs, other: Measured, theirs: ComparedPairs, progress: Progress
) -> tuple[Difference, ...]:
    right = [fold_decisions(each.distances, each.is_same) == each.is_same for each in (own, theirs)]
    means = [resampled_means(each[:, None].astype(np.float64), own.identities) for each in right]
    found = _differences(("accuracy",), one, other, means[0] - means[1], len(np.unique(own.identities)))
    names = [name for name, far in TRUE_ACCEPTS.items() if own.scored.resolves(far)]
    if not names:
        return found
    rates = resampled_rates([own.scored, theirs.scored], [TRUE_ACCEPTS[name] for name in names], report=progress)
    return (*found, *_differences(names, one, other, rates[0] - rates[1], own.scored.people))


def _differences(
    names: tuple[str, ...] | list[str],
    one: Measured,
    other: Measured,
    replicates: NDArray[np.float64],
    identities: int,
) -> tuple[Difference, ...]:
    values, others = measured_values(one.result), measured_values(other.result)
    low, high = interval(replicates, identities)
    return tuple(
        Difference(name, values[name], others[name], float(low[n]), float(high[n])) for n, name in enumerate(names)
    )
