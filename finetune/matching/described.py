"""What a trained network says of images: embedding, map and visibility out of one pass, and scores of pairs of images.

`describe` gives what is known of n images; `scores` compares listed pairs of these, and `all_scores` all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..network.feature_maps import MapTap
from ..network.learner import embedding_of
from .matcher import Matcher
from .visibility import VisibilityHead

__all__ = ["Described", "MatchingModel"]


@dataclass(frozen=True)
class Described:
    """What is known of n images."""

    embeddings: Tensor
    """float32 [n, D], raw."""
    maps: Tensor
    """float32 [n, C, h, w], raw."""
    visible: Tensor | None
    """float32 [n, 1, h, w], 1 = visible; None where the run has no loss `occlusion`."""

    def __getitem__(self, rows: Tensor | slice) -> Described:
        """Some of the images."""
        visible = None if self.visible is None else self.visible[rows]
        return replace(self, embeddings=self.embeddings[rows], maps=self.maps[rows], visible=visible)


@dataclass(frozen=True)
class MatchingModel:
    """A backbone with its map, the matcher, and the visibility head where there is one."""

    tap: MapTap
    output: int
    """Which output of the backbone is the embedding."""
    matcher: Matcher
    visibility: VisibilityHead | None
    uses_visibility: bool = True
    """Whether the matcher is given the visibility."""

    @torch.no_grad()
    def describe(self, images: Tensor) -> Described:
        """Embeddings, maps and visibility of normalised images [n, C, H, W]; modules are to be in eval mode."""
        outputs, maps = self.tap.run(images)
        visible = None if self.visibility is None else self.visibility(maps)
        return Described(embedding_of(outputs, self.output).float(), maps.float(), visible)

    @torch.no_grad()
    def scores(self, first: Described, second: Described) -> Tensor:
        """The matcher's scores float32 [n] of listed pairs: first[i] with second[i]."""
        return self.matcher.pairs(first.maps, second.maps, self._shown(first), self._shown(second))

    @torch.no_grad()
    def all_scores(self, gallery: Described, probes: Described) -> Tensor:
        """The matcher's scores float32 [G, P] of all pairs."""
        scores: Tensor = self.matcher(gallery.maps, probes.maps, self._shown(gallery), self._shown(probes))
        return scores

    def _shown(self, described: Described) -> Tensor | None:
        return described.visible if self.uses_visibility else None
