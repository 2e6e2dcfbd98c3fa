"""The results of a calibration: statistics of each layer's output, and digests of the images."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..records.image_digest import combined_digest
from .channel_statistics import ChannelStatistics

__all__ = ["Calibration", "Observation"]


@dataclass
class Observation:
    """The output of one layer: statistics per channel, its rank, and whether the layer's input maps are 1 x 1."""

    statistics: ChannelStatistics
    rank: int = 0
    single_position: bool = False

    def followed_by(self, later: Observation | None) -> Observation:
        """Merge this observation with a `later` one into a new one."""
        if later is None:
            return self
        return Observation(self.statistics.merged(later.statistics), later.rank, later.single_position)


@dataclass
class Calibration:
    """Observations by module path, over `images` images in `batches` batches; `largest` is the last largest batch."""

    layers: dict[str, Observation] = field(default_factory=dict)
    images: int = 0
    batches: int = 0
    digests: list[bytes] = field(default_factory=list)
    largest: tuple[Tensor, ...] = ()

    @property
    def sha256(self) -> str:
        """The digest of the set of images, which does not depend on their order."""
        return combined_digest(self.digests)
