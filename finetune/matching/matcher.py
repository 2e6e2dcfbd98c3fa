"""The QAConv matcher: a score for two feature maps, with or without knowing what of them is visible.

Liao and Shao, arXiv:1904.10424, and "Graph Sampling Based Deep Metric Learning for Generalizable Person
Re-Identification", arXiv:2104.01546; layers are named as in the authors' code. From a and b of `best_matches`:
BatchNorm over all their numbers, one shared Linear (L -> 1) on a and on b, their sum, BatchNorm. The shared layer makes
score(g, p) = score(p, g).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import InputError
from .best_matches import best_matches, best_of_pairs, locations, unit_vectors

__all__ = ["Matcher", "Weighting", "area_average"]

Weighting = Literal["scaling", "mask"]


def area_average(visible: Tensor, size: tuple[int, int]) -> Tensor:
    """Visibility [N, 1, H, W] at the size (h, w) of a map: the mean over the area of each location, [N, 1, h, w]."""
    return F.adaptive_avg_pool2d(visible, size)


class Matcher(nn.Module):
    """Scores of pairs of maps of one size; larger is more alike. Scores are logits of "the same identity".

    Two ways to use visibility, from 0 hidden to 1 visible:

    - `scaling`: S'[r, s] = v_g[r] v_p[s] S[r, s] before the two maxima. A hidden location counts as a cosine of 0, so
      it beats a visible one with a negative cosine, and the level of the scores follows the visible area.
    - `mask`: maxima over visible locations only, and sums weighted by visibility: with uniform weights,
      sum_s v_p[s] a_s / sum_s v_p[s]. The level of the scores does not depend on the visible area.

    Without visibility, or with 1 everywhere, both are the plain matcher.
    """

    def __init__(self, size: tuple[int, int], weighting: Weighting = "scaling") -> None:
        """A matcher of maps of `size`, height and width, with uniform weights."""
        super().__init__()
        self.size, self.weighting = size, weighting
        count = size[0] * size[1]
        self.bn = nn.BatchNorm1d(1)
        self.fc = nn.Linear(count, 1)
        self.logit_bn = nn.BatchNorm1d(1)
        nn.init.constant_(self.fc.weight, 1 / count)
        nn.init.zeros_(self.fc.bias)

    def forward(
        self, gallery: Tensor, probes: Tensor, visible_g: Tensor | None = None, visible_p: Tensor | None = None
    ) -> Tensor:
        """Scores [G, P] of all pairs of maps [G, C, h, w] and [P, C, h, w].

        Args:
            gallery: Maps as the backbone gives them; they are normalised here.
            probes: Likewise.
            visible_g: Visibility [G, 1, h, w] of the gallery; None: all is visible.
            visible_p: Visibility [P, 1, h, w] of the probes.

        Raises:
            InputError: maps or visibility have another size than the matcher.
        """
        units, seen, chosen_by = self._prepared((gallery, probes), (visible_g, visible_p))
        a, b = best_matches(*units, chosen_by)
        weights_p = None if seen[1] is None else seen[1][None].expand_as(a).flatten(0, 1)
        weights_g = None if seen[0] is None else seen[0][:, None].expand_as(b).flatten(0, 1)
        return self._scores(a.flatten(0, 1), b.flatten(0, 1), weights_p, weights_g).view(a.shape[0], a.shape[1])

    def pairs(
        self, first: Tensor, second: Tensor, visible_a: Tensor | None = None, visible_b: Tensor | None = None
    ) -> Tensor:
        """Scores [n] of listed pairs: maps [n, C, h, w] of their first and of their second images.

        Raises:
            InputError: as `forward`.
        """
        units, seen, chosen_by = self._prepared((first, second), (visible_a, visible_b))
        a, b = best_of_pairs(*units, chosen_by)
        return self._scores(a, b, seen[1], seen[0])

    def within(self, maps: Tensor, visible: Tensor | None = None) -> Tensor:
        """Scores [N, N] of all pairs of different images among maps [N, C, h, w]; 0 for an image and itself.

        In training mode these pairs alone make the statistics of the BatchNorms.

        Raises:
            InputError: as `forward`; fewer than two images.
        """
        if len(maps) < 2:
            raise InputError("the matcher compares images with each other, and got one; use a batch of 2 or more")
        units, seen, chosen_by = self._prepared((maps, maps), (visible, visible))
        count = len(maps)
        # Places off the diagonal, without asking a GPU how many there are: rows of count + 1 numbers end on it.
        places = torch.arange(count * count, device=maps.device)[1:].view(count - 1, count + 1)[:, :-1].flatten()
        a = best_matches(*units, chosen_by)[0].flatten(0, 1)[places]  # b[g, p] is a[p, g]
        weights = None if seen[1] is None else seen[1].repeat(count, 1)[places]
        halves = self._half(self.bn(a[:, None]).squeeze(1), weights)
        square = halves.new_zeros(count * count).index_copy(0, places, halves).view(count, count)
        scores = self.logit_bn((square + square.T).flatten()[places][:, None]).squeeze(1)
        return torch.zeros_like(square).flatten().index_copy(0, places, scores).view(count, count)

    def _prepared(
        self, maps: tuple[Tensor, Tensor], visible: tuple[Tensor | None, Tensor | None]
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor | None, Tensor | None], tuple[Tensor, Tensor] | None]:
        """Unit vectors, scaled where that is the method; what weighs sums; and what chooses maxima."""
        for each in (*maps, *(shown for shown in visible if shown is not None)):
            if tuple(each.shape[2:]) != self.size:
                got, own = ("x".join(map(str, size)) for size in (each.shape[2:], self.size))
                raise InputError(f"the matcher compares maps of {own}, got {got}; use the model that it was trained on")
        first, second = (unit_vectors(each) for each in maps)
        if visible[0] is None and visible[1] is None:
            return (first, second), (None, None), None
        seen = tuple(
            locations(each.new_ones(each.shape[0], 1, *self.size) if shown is None else shown).to(units.dtype)
            for each, shown, units in zip(maps, visible, (first, second), strict=True)
        )
        if self.weighting == "scaling":
            return (first * seen[0][:, :, None], second * seen[1][:, :, None]), (None, None), None
        return (first, second), (seen[0], seen[1]), (seen[0], seen[1])

    def _scores(self, a: Tensor, b: Tensor, weights_a: Tensor | None, weights_b: Tensor | None) -> Tensor:
        """Scores [n] of a and b [n, L], whose entries are weighed by [n, L]."""
        normed = self.bn(torch.cat([a, b])[:, None]).squeeze(1)
        total = self._half(normed[: a.shape[0]], weights_a) + self._half(normed[a.shape[0] :], weights_b)
        scores: Tensor = self.logit_bn(total[:, None]).squeeze(1)
        return scores

    def _half(self, normed: Tensor, weights: Tensor | None) -> Tensor:
        """The shared layer on a or on b, [n, L]: [n]; with weights, a sum weighed by them."""
        if weights is not None:
            normed = normed * weights * (weights.shape[1] / weights.sum(1, keepdim=True).clamp(min=1e-6))
        half: Tensor = self.fc(normed).squeeze(1)
        return half
