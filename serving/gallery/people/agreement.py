"""How found people agree with true ones, from the definitions.

Pairs: precision is the share of pairs found in one cluster that are one person, recall the share of true pairs that are
found. B-cubed (Bagga, Baldwin 1998): the same shares within each track's cluster, averaged over tracks. NMI with the
arithmetic mean of both entropies, which is the V-measure with beta 1 (Rosenberg, Hirschberg 2007).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Agreement", "agreement"]


@dataclass(frozen=True)
class Agreement:
    """All from 0 to 1 but the last two, which are counts."""

    pair_precision: float
    pair_recall: float
    pair_f: float
    bcubed_precision: float
    bcubed_recall: float
    bcubed_f: float
    nmi: float
    homogeneity: float
    completeness: float
    v_measure: float
    people_found: int
    people_true: int


def agreement(truth: Sequence[object] | NDArray[np.int64], found: Sequence[object] | NDArray[np.int64]) -> Agreement:
    """Compare two labellings of the same N items, N >= 1."""
    _, true = np.unique(np.asarray(truth), return_inverse=True)
    _, own = np.unique(np.asarray(found), return_inverse=True)
    cells, counts = np.unique(np.stack([true, own]), axis=1, return_counts=True)
    n = counts.astype(np.float64)
    of_truth, of_found = np.bincount(true)[cells[0]], np.bincount(own)[cells[1]]
    total = len(true)
    both = float((n * (n - 1)).sum())
    pairs_true, pairs_found = _pairs(true), _pairs(own)
    precision = both / pairs_found if pairs_found else 1.0
    recall = both / pairs_true if pairs_true else 1.0
    b_precision, b_recall = float((n * n / of_found).sum() / total), float((n * n / of_truth).sum() / total)
    entropy_true, entropy_found = _entropy(true), _entropy(own)
    mutual = float((n / total * np.log(n * total / (of_truth * of_found))).sum())
    homogeneity = min(1.0, mutual / entropy_true) if entropy_true else 1.0
    completeness = min(1.0, mutual / entropy_found) if entropy_found else 1.0
    v_measure = _harmonic(homogeneity, completeness)
    return Agreement(
        pair_precision=precision,
        pair_recall=recall,
        pair_f=_harmonic(precision, recall),
        bcubed_precision=b_precision,
        bcubed_recall=b_recall,
        bcubed_f=_harmonic(b_precision, b_recall),
        nmi=v_measure,
        homogeneity=homogeneity,
        completeness=completeness,
        v_measure=v_measure,
        people_found=int(own.max()) + 1,
        people_true=int(true.max()) + 1,
    )


def _pairs(labels: NDArray[np.intp]) -> float:
    sizes = np.bincount(labels).astype(np.float64)
    return float((sizes * (sizes - 1)).sum())


def _entropy(labels: NDArray[np.intp]) -> float:
    shares = np.bincount(labels) / len(labels)
    value = float(-(shares * np.log(shares)).sum())
    return value if value > 1e-12 else 0.0


def _harmonic(one: float, other: float) -> float:
    return 2 * one * other / (one + other) if one + other else 0.0
