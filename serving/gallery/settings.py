"""What a user may set of a gallery; `gallery:` of a YAML file has the same names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import ConfigError
from .people.clustering import Method
from .tracks.vectors import Centre

__all__ = ["GallerySettings"]


@dataclass(frozen=True)
class GallerySettings:
    """How crops become people.

    Raises:
        ConfigError: a value is out of its range.
    """

    crops: int = 16
    """Best crops of a track that are embedded, from 1."""
    people: int = 10
    """People that get an animation, from 0; the largest first."""
    threshold: float | Literal["auto"] | None = None
    """Cosine from which two groups of tracks are one person; auto: from the data. None clusters by auto and lists
    likely duplicates above .70."""
    cluster: Method = "agglomerative"
    """agglomerative, components, dbscan, hdbscan or none."""
    centre: Centre = "camera"
    """Which mean is subtracted from the vectors of tracks: of their camera, of all, or none."""
    similarity: Literal["vectors", "mean-of-pairs"] = "vectors"
    """Cosine of two tracks' vectors, or the mean cosine of all pairs of their crops, which is not centred."""
    cannot_link: Literal["time", "none"] | None = None
    """time: tracks that overlap in one camera are two people. None: where frame numbers are times."""
    eps: float = 0.4
    """Jaccard distance within which DBSCAN joins."""
    partners: int = 4
    """Tracks expected of one person, for DBSCAN's neighbour lists."""
    split: bool = False
    """Cut tracks whose halves are unlike at their best change point."""
    batch: int | Literal["auto"] = 16
    """Images per call of the model; a fixed batch keeps its own."""
    preprocessing: str | None = None
    """How images are prepared, as --preprocessing says; None is as the model states."""
    cache: Path | None = None
    """Folder of known embeddings."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    labels: Path | None = None
    """CSV with track,identity or path,identity: who is who, to measure only."""
    edits: Path | None = None
    """The edits.json that the page saved."""
    edits_source: Path | None = None
    """The clusters.json that was edited; by default the one beside `edits`."""

    def __post_init__(self) -> None:
        if self.crops < 1:
            raise ConfigError(f"crops: expected 1 or more per track, got {self.crops}")
        if self.people < 0:
            raise ConfigError(f"people: expected 0 or more, got {self.people}")
        if isinstance(self.threshold, float) and not -1 <= self.threshold <= 1:
            raise ConfigError(f"threshold: expected a cosine from -1 to 1, or auto, got {self.threshold}")
        if not 0 < self.eps <= 1:
            raise ConfigError(f"eps: expected a distance above 0 and up to 1, got {self.eps}")
        if self.partners < 1:
            raise ConfigError(f"partners: expected 1 or more tracks of one person, got {self.partners}")
