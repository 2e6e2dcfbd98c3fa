"""Templates as embeddings, and what is measured of them: 1:1 by pairs, 1:N by galleries.

As IJB is evaluated with ArcFace: embeddings keep their length, are weighted by the detector's score, averaged over the
images of each media, summed over the media of each template, and normalised.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError
from ...embedding.unit_embeddings import unit_rows
from ..cores import Progress, no_progress
from ..pairs.verification import ComparedPairs, VerificationResult, compare_pairs
from .identification import identification_rates
from .template_folder import TemplateSet

__all__ = ["TemplateResult", "compare_templates", "template_embeddings"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class TemplateResult(VerificationResult):
    """The figures of 1:1, and of 1:N where the set has galleries."""

    templates: int = 0
    identification: dict[str, float | None] = field(default_factory=dict)
    """rank1, rank5, rank10 and tpir_at_fpir_1e1 and _1e2 of 1:N, means over the galleries."""

    @property
    def protocol(self) -> str:
        """The name of the protocol, for reports."""
        return "templates"


def template_embeddings(
    embeddings: Floats, template: Indices, media: Indices, weight: NDArray[np.float64], count: int
) -> Floats:
    """One embedding float32 [T, D] for each of `count` templates, not normalised.

    Args:
        embeddings: Of the images, float32 [n, D], as long as the model makes them.
        template: Template of each image, int64 [n].
        media: Media of each image, int64 [n].
        weight: Detector score of each image, [n].
        count: T.
    """
    groups, group = np.unique(np.stack([template, media], axis=1), axis=0, return_inverse=True)
    group = group.reshape(-1)
    sums = np.zeros((len(groups), embeddings.shape[1]))
    np.add.at(sums, group, embeddings * weight[:, None])
    means = sums / np.bincount(group)[:, None]
    rows = np.zeros((count, embeddings.shape[1]))
    np.add.at(rows, groups[:, 0], means)
    return rows.astype(np.float32)


def compare_templates(
    labels: TemplateSet, positions: Indices, embeddings: Floats, progress: Progress = no_progress
) -> tuple[ComparedPairs, TemplateResult]:
    """Measure a template set.

    Args:
        labels: The set.
        positions: Which of its images were readable, int64 [n].
        embeddings: Theirs, float32 [n, D].
        progress: Called with what is done.

    Raises:
        DataError: a template has no readable image.
        GateError: embeddings are not finite.
    """
    template = labels.template[positions]
    lost = np.setdiff1d(np.arange(len(labels.names)), template)
    if len(lost):
        raise DataError(f"{labels.dataset.name}: no image of template {labels.names[lost[0]]} can be read")
    rows = template_embeddings(
        embeddings, template, labels.media[positions], labels.weight[positions], len(labels.names)
    )
    compared = compare_pairs(rows, np.arange(len(rows)), labels.pairs, known_identities=False, report=progress)
    first = np.unique(template, return_index=True)[1]
    compared = replace(compared, scored_images=first[compared.scored_images])
    rates: dict[str, float | None] = {}
    if labels.probes is not None and labels.galleries:
        rates = identification_rates(unit_rows(rows), labels.galleries, labels.probes, progress)
    result = TemplateResult(**vars(compared.result(progress)), templates=len(rows), identification=rates)
    return compared, result
