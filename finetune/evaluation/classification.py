"""Closed-set classification: the model's output holds one score for each class, and the identities are the classes.

An image is right at k where fewer than k classes score higher than its own, or as high and come before it. Classes are
numbered as the data set numbers its identities: of a folder, its sub-folders in alphabetical order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError

__all__ = ["CLASSIFICATION_METRICS", "ClassificationResult", "measure_classification"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

CLASSIFICATION_METRICS = ("top1", "top5", "top10", "mean_class_accuracy")
"""Fields of a result that are better when larger, the usual one first."""


@dataclass(frozen=True)
class ClassificationResult:
    """Shares in 0..1 over `images` images."""

    top1: float
    top5: float
    top10: float
    mean_class_accuracy: float
    """Mean over the classes of the share of their images that are right."""
    images: int
    classes: int

    @property
    def protocol(self) -> str:
        """The name of the protocol, for reports."""
        return "classification"


def measure_classification(scores: Floats, identities: Indices, name: str = "classification") -> ClassificationResult:
    """Measure scores float32 [N, C] against classes int64 [N], 0 to C - 1; images of nobody (-1) are left out.

    Raises:
        DataError: there are not as many scores as classes.
    """
    known = identities >= 0
    scores, identities = scores[known], identities[known]
    classes = int(identities.max(initial=-1)) + 1
    if not len(scores) or scores.shape[1] != classes:
        raise DataError(
            f"{name}: the output has {scores.shape[1]} numbers and the data {classes} identities; classification needs "
            "one score for each: give the number of the classifier's output by --embedding, or measure embeddings by "
            "--protocol verification"
        )
    own = scores[np.arange(len(scores)), identities][:, None]
    before = (scores > own) | ((scores == own) & (np.arange(classes) < identities[:, None]))
    rank = before.sum(axis=1)
    right = np.bincount(identities, weights=rank == 0, minlength=classes)
    return ClassificationResult(
        top1=float((rank < 1).mean()),
        top5=float((rank < 5).mean()),
        top10=float((rank < 10).mean()),
        mean_class_accuracy=float((right / np.bincount(identities, minlength=classes)).mean()),
        images=len(scores),
        classes=classes,
    )
