"""Which images of a data set meet in an evaluation, once their pixels are known: none meets a copy of itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..data.dataset import Dataset
from ..data.distinct_images import Contents, one_of_each, refuse_two_identities, without_own_copies
from .plan import EvaluationPlan, Protocol, plan_evaluation
from .ranks.ranking import COSINE, Ranking

__all__ = ["MatchedImages", "match_images"]


@dataclass(frozen=True)
class MatchedImages:
    """A data set as it is measured."""

    plan: EvaluationPlan
    dataset: Dataset
    """The images that take part; the plan's numbers are of these."""
    positions: NDArray[np.int64]
    """Which images of the data set as it was read they are, int64 [n]."""
    notes: tuple[str, ...]
    """What was left out of the match, for the log."""


def match_images(
    dataset: Dataset, contents: Contents, protocol: Protocol | None = None, ranking: Ranking = COSINE
) -> MatchedImages:
    """Plan an evaluation without pairs of an image and its copy.

    A listed pair is measured as it is listed; pairs of an image with itself are counted in a note.

    Args:
        dataset: The readable images.
        contents: The digest of each, see `content_numbers`.
        protocol: By default what the labels allow.
        ranking: How retrieval ranks.

    Raises:
        ConfigError: a ranking asked of a verification.
        DataError: one image has two identities, or the labels do not fit the protocol.
    """
    positions = np.arange(len(dataset))
    plan = plan_evaluation(dataset, protocol, ranking)
    if plan.protocol in ("classification", "function"):  # no image meets another, or only as the user's code has it
        return MatchedImages(plan, dataset, positions, ())
    if dataset.pairs is not None:
        itself = int((contents[dataset.pairs[:, 0]] == contents[dataset.pairs[:, 1]]).sum())
        note = (f"{itself} listed pairs are of one image with itself, and are counted as listed",) if itself else ()
        return MatchedImages(plan, dataset, positions, note)
    refuse_two_identities(dataset, contents)
    if plan.protocol == "retrieval":
        gallery, notes = without_own_copies(dataset, contents, plan.query, plan.gallery)
        unseen = len(dataset) - len(plan.query) - len(plan.gallery)
        if unseen:
            notes += (f"{unseen} images without a camera left out of the match",)
        return MatchedImages(replace(plan, gallery=gallery), dataset, positions, notes)
    positions, notes = one_of_each(dataset, contents)
    if notes:
        dataset = dataset.subset(positions)
        plan = plan_evaluation(dataset, protocol)
    return MatchedImages(plan, dataset, positions, notes)
