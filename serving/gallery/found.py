"""What a gallery found, before it is written: people, the numbers behind them, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .inputs.crops import Crops
from .people.agglomerative import Tree
from .people.agreement import Agreement
from .people.edits import Edits
from .people.people import People
from .people.splitting import Suspect
from .people.threshold import Threshold

__all__ = ["Found"]


@dataclass(frozen=True)
class Found:
    """People of T tracks of N crops."""

    crops: Crops
    chosen: NDArray[np.int64]
    """Rows of the best crops, ascending, int64 [n]."""
    quality: NDArray[np.float64]
    """Of every crop, [N]."""
    vectors: NDArray[np.float32]
    """Unit vectors of the tracks, [T, D]."""
    compared: NDArray[np.float32]
    """Vectors whose dot products are the similarities of tracks, [T, D]."""
    tree: Tree
    apart: NDArray[np.int64]
    """Pairs of tracks that cannot be one person, [P, 2]."""
    groups: NDArray[np.int64]
    """The group of each track before edits, by its lowest track, [T]."""
    people: People
    outliers: tuple[int, ...]
    suspects: tuple[Suspect, ...]
    method: str
    threshold: Threshold
    """At which tracks are clustered."""
    listed: Threshold
    """Above which pairs of people are listed as likely duplicates."""
    centred: str
    model: str
    model_type: str
    sha256: str
    """Of the model's content."""
    head: dict[str, str]
    """Facts of the model for the page: parameters, input, output, preprocessing."""
    agreement: Agreement | None
    edits: Edits | None
    warnings: tuple[str, ...]

    @property
    def mean_cohesion(self) -> float | None:
        """Mean cosine of the pairs within people, people of one track left out; each person counts once."""
        values = [person.cohesion for person in self.people.people if person.cohesion is not None]
        return float(np.mean(values)) if values else None
