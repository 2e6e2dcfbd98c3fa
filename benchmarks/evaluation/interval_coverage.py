"""How often the 95 % intervals of an evaluation hold the truth, over simulated sets of people of one kind.

The truth is the mean over sets of many more people. An interval that keeps its promise holds it in 930 to 970 of 1,000
sets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...finetune.data.pair_drawing import draw_pairs
from ...finetune.evaluation.pairs.verification import compare_pairs
from ...finetune.evaluation.ranks.retrieval import RetrievalResult, measure_retrieval
from .simulated_people import simulated_images

__all__ = ["measure_coverage"]

_RATES = ("tar_at_far_1e1", "tar_at_far_1e2")
_SHARES = ("mAP", "rank1")
_PEOPLE, _IMAGES = 80, 3
_TRUTH_SETS, _TRUTH_PEOPLE = 10, 1_500


def measure_coverage(sets: int) -> dict[str, Any]:
    """Sets whose interval holds the truth, by metric, out of `sets`."""
    true_rates = np.mean(
        [_rates(_TRUTH_PEOPLE, 1_000_000 + seed) for seed in range(_TRUTH_SETS)],
        axis=0,
    )
    held: dict[str, int] = dict.fromkeys((*_RATES, *_SHARES), 0)
    retrieved: list[RetrievalResult] = []
    for seed in range(sets):
        embeddings, identities = simulated_images(_PEOPLE, _IMAGES, seed)
        result = compare_pairs(embeddings, identities, draw_pairs(identities)).result()
        for name, truth in zip(_RATES, true_rates, strict=True):
            low, high = result.tar_low[name], result.tar_high[name]
            held[name] += int(low is not None and high is not None and low <= truth <= high)
        retrieved.append(_retrieval(embeddings, identities))
    for name in _SHARES:  # a gallery's size is part of the task, so the truth is the mean over sets of this size
        truth = float(np.mean([getattr(result, name) for result in retrieved]))
        held[name] = sum(int(result.low[name] <= truth <= result.high[name]) for result in retrieved)
    return {"sets": sets, "people": _PEOPLE, "images_each": _IMAGES, "held": held}


def _rates(people: int, seed: int) -> list[float]:
    embeddings, identities = simulated_images(people, _IMAGES, seed)
    curve = compare_pairs(embeddings, identities, draw_pairs(identities)).curve
    return [curve.true_accept_rate(far) for far in (1e-1, 1e-2)]


def _retrieval(embeddings: NDArray[np.float32], identities: NDArray[np.int64]) -> RetrievalResult:
    """The first image of each person asks for the others."""
    asked = np.arange(len(identities)) % _IMAGES == 0
    unknown = np.full(len(identities), -1)
    return measure_retrieval(
        embeddings[asked],
        embeddings[~asked],
        identities[asked],
        identities[~asked],
        unknown[asked],
        unknown[~asked],
    )
