"""What calibration has seen of a network: statistics of each layer's output, and of which images."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..records.image_digest import combined_digest
from .channel_statistics import ChannelStatistics

__all__ = ["Calibration", "Observation"]


@dataclass
class Observation:
    """What one layer wrote: statistics per channel, the rank of its output, and whether its maps are 1 x 1."""

    statistics: ChannelStatistics
    rank: int = 0
    single_position: bool = False

    def followed_by(self, later: Observation | None) -> Observation:
        """What was seen up to now and later, if anything was; neither is changed."""
        if later is None:
            return self
        return Observation(self.statistics.merged(later.statistics), later.rank, later.single_position)


@dataclass
class Calibration:
    """Observations by module path, over `images` images in `batches` batches; `largest` is the last of the largest."""

    layers: dict[str, Observation] = field(default_factory=dict)
    images: int = 0
    batches: int = 0
    digests: list[bytes] = field(default_factory=list)
    largest: tuple[Tensor, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the set of images, whatever their order."""
        return combined_digest(self.digests)
