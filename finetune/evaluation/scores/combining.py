"""The cosine of embeddings and the score of a matcher as one score.

Both are standardised by mean and deviation of nine folds, and summed with weights for the pairs of the tenth, so that
no figure of a pair depends on that pair. Where the matcher is no better than chance on the nine folds, other weights
are used, and that is recorded. `fitted`: the weights are those of a logistic regression on the nine folds, with the
penalty |w|^2 / 2 on the sum of losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..pairs.receiver_curve import ReceiverCurve
from .midpoint_folds import best_midpoint

__all__ = ["EVEN", "Combination", "Combined", "combine_scores"]

Scores = NDArray[np.floating]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

_CHANCE = 0.5
_NEWTON_STEPS = 50
_CONVERGED = 1e-10


@dataclass(frozen=True)
class Combination:
    """How two scores become one."""

    embedding: float = 0.5
    """Weight of the standardised cosine."""
    matcher: float = 0.5
    fallback: tuple[float, float] | None = (0.8, 0.2)
    """Weights of both where the matcher is no better than chance; None keeps the others."""
    fitted: bool = False
    """Fit the weights instead."""


EVEN = Combination()
"""Both count alike."""


@dataclass(frozen=True)
class Combined:
    """One score for each pair, fold by fold."""

    scores: NDArray[np.float64]
    """[P]."""
    accepted: Flags
    """Which pairs lie above the threshold of the nine other folds, [P]."""
    weights: NDArray[np.float64]
    """Of embedding and matcher in each fold, [10, 2]."""
    fallback: Flags
    """In which folds the matcher was no better than chance, [10]."""


def combine_scores(
    embedding: Scores, matcher: Scores, is_same: Flags, folds: Sequence[Indices], combination: Combination
) -> Combined:
    """The combined score of each pair.

    Args:
        embedding: Cosines [P].
        matcher: Scores [P] of the same pairs.
        is_same: Which pairs are of one identity, [P].
        folds: The numbers of the pairs of each fold.
        combination: Weights, or that they are fitted.
    """
    both = np.stack([embedding, matcher], axis=1).astype(np.float64)
    scores, accepted = np.zeros(len(both)), np.zeros(len(both), dtype=bool)
    weights, fallback = np.zeros((len(folds), 2)), np.zeros(len(folds), dtype=bool)
    for number, fold in enumerate(folds):
        rest = np.ones(len(both), dtype=bool)
        rest[fold] = False
        mean, deviation = both[rest].mean(axis=0), both[rest].std(axis=0)
        standard = (both - mean) / np.where(deviation > 0, deviation, 1.0)
        fallback[number] = _at_chance(both[rest, 1], is_same[rest])
        if combination.fitted:
            weights[number] = _fitted_weights(standard[rest], is_same[rest])
        elif fallback[number] and combination.fallback is not None:
            weights[number] = combination.fallback
        else:
            weights[number] = combination.embedding, combination.matcher
        joined = standard @ weights[number]
        scores[fold] = joined[fold]
        accepted[fold] = joined[fold] > best_midpoint(joined[rest], is_same[rest])[0]
    return Combined(scores, accepted, weights, fallback)


def _at_chance(scores: Scores, is_same: Flags) -> bool:
    """Whether a score says no more than chance.

    Half of the decisions are right at its best threshold, or same pairs score no higher than different ones.
    """
    return best_midpoint(scores, is_same)[1] <= _CHANCE or ReceiverCurve(scores, is_same).area() <= _CHANCE


def _fitted_weights(standard: NDArray[np.float64], is_same: Flags) -> NDArray[np.float64]:
    """Weights [2] of a logistic regression with a bias, by Newton's method."""
    inputs = np.column_stack([standard, np.ones(len(standard))])
    penalty = np.diag([1.0, 1.0, 0.0])
    found = np.zeros(3)
    for _ in range(_NEWTON_STEPS):
        share = 1 / (1 + np.exp(-np.clip(inputs @ found, -500, 500)))
        gradient = inputs.T @ (share - is_same) + penalty @ found
        curvature = (inputs * (share * (1 - share))[:, None]).T @ inputs + penalty
        step = np.linalg.solve(curvature + 1e-12 * np.eye(3), gradient)
        found -= step
        if np.abs(step).max() < _CONVERGED:
            break
    return found[:2]
