"""A network with a matcher as evaluation uses it: pixels in, descriptions of images and scores of pairs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...converters.records.preprocessing import Preprocessing
from ..network.networks import images_to_tensor
from .described import Described, MatchingModel

__all__ = ["ModelMatcher"]


@dataclass(frozen=True)
class ModelMatcher:
    """The modules of `model` are in eval mode and on `device`."""

    model: MatchingModel
    preprocessing: Preprocessing
    device: torch.device
    channels_last: bool = True

    def describe(self, pixels: NDArray[np.uint8]) -> Described:
        """The description of images uint8 [n, H, W, C]."""
        return self.model.describe(
            images_to_tensor(torch.from_numpy(pixels), self.preprocessing, self.device, self.channels_last)
        )

    def join(self, parts: Sequence[Described]) -> Described:
        """One description of the images of several."""
        shown = [part.visible for part in parts if part.visible is not None]
        return Described(
            torch.cat([part.embeddings for part in parts]),
            torch.cat([part.maps for part in parts]),
            torch.cat(shown) if shown else None,
        )

    def take(self, described: Described, rows: NDArray[np.int64]) -> Described:
        """The description of the images in some rows."""
        return described[torch.from_numpy(rows).to(self.device)]

    def visibility(self, described: Described) -> NDArray[np.float32] | None:
        """What of the images is visible, 0 to 1, [n, h, w]; None without a visibility head."""
        if described.visible is None:
            return None
        shown: NDArray[np.float32] = described.visible[:, 0].float().cpu().numpy()
        return shown

    def scores(self, first: Described, second: Described) -> NDArray[np.float32]:
        """The score float32 [n] of each image of `first` with that in the same row of `second`."""
        found: NDArray[np.float32] = self.model.scores(first, second).float().cpu().numpy()
        return found
