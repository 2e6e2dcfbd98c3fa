"""Two feature maps compared location by location: how well each location of one is matched in the other.

Liao and Shao, "Interpretable and Generalizable Person Re-Identification with Query-Adaptive Convolution and Temporal
Lifting" (QAConv), ECCV 2020, arXiv:1904.10424. With unit vectors g_r and p_s per location, S[r, s] = <g_r, p_s>,
a_s = max_r S[r, s] and b_r = max_s S[r, s]. Shapes here: L = h w locations, G and P maps, n listed pairs.

S of all pairs is never held: of 256 maps of 7x7 it has 0.6 GB, of 14x14 9.4 GB. It is computed for some probes at a
time, and of each part only a and b are kept, also for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["best_matches", "best_of_pairs", "locations", "unit_vectors"]

_PART_BYTES = 32e6
"""Bytes of S that are computed at a time; a part is copied a few times on the way."""
_HIDDEN = 3.0
"""How much a hidden location falls behind: more than any two cosines differ, so that it never beats a visible one."""


def unit_vectors(maps: Tensor) -> Tensor:
    """The unit vector of each location, [N, L, C] of maps [N, C, h, w], in float32 (float64 stays); zeros stay zero.

    The one place that normalises maps, for training, validation and export alike.
    """
    wide = maps if maps.dtype == torch.float64 else maps.float()
    return F.normalize(wide.flatten(2), dim=1).transpose(1, 2)


def locations(visible: Tensor) -> Tensor:
    """Visibility [N, 1, h, w] as one number per location, [N, L]."""
    return visible.flatten(1)


def best_matches(
    gallery: Tensor, probes: Tensor, chosen_by: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The a [G, P, L] and b [G, P, L] of all pairs of unit vectors [G, L, C] and [P, L, C].

    Args:
        gallery: Of the gallery's maps, or these times their visibility.
        probes: Of the probes' maps, or these times their visibility.
        chosen_by: Visibility [G, L] and [P, L] by which the maxima are chosen: over visible locations only, as far as
            there are any. The values are cosines in any case.
    """
    hidden = _hidden(chosen_by)
    firsts, seconds = [], []
    for part in _parts(len(gallery) * gallery.shape[1] * probes.shape[1] * gallery.element_size(), len(probes)):
        similar = torch.einsum("grc,psc->gprs", gallery, probes[part])
        if hidden is None:
            firsts.append(similar.max(2).values)
            seconds.append(similar.max(3).values)
        else:
            firsts.append(_chosen(similar, hidden[0][:, None, :, None], 2))
            seconds.append(_chosen(similar, hidden[1][None, part, None, :], 3))
    return torch.cat(firsts, 1), torch.cat(seconds, 1)


def best_of_pairs(
    first: Tensor, second: Tensor, chosen_by: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The a [n, L] and b [n, L] of listed pairs: unit vectors [n, L, C] of their first and second images.

    `chosen_by` is as in `best_matches`, [n, L] each.
    """
    hidden = _hidden(chosen_by)
    firsts, seconds = [], []
    for part in _parts(first.shape[1] * second.shape[1] * first.element_size(), first.shape[0]):
        similar = first[part] @ second[part].transpose(1, 2)
        if hidden is None:
            firsts.append(similar.max(1).values)
            seconds.append(similar.max(2).values)
        else:
            firsts.append(_chosen(similar, hidden[0][part, :, None], 1))
            seconds.append(_chosen(similar, hidden[1][part, None, :], 2))
    return torch.cat(firsts), torch.cat(seconds)


def _hidden(chosen_by: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
    """What is subtracted from the cosines of each location where a maximum is chosen."""
    if chosen_by is None:
        return None
    first, second = (_HIDDEN * (1 - visible.detach()) for visible in chosen_by)
    return first, second


def _chosen(similar: Tensor, hidden: Tensor, axis: int) -> Tensor:
    """Along `axis` the entries of `similar` that are largest after `hidden`, a constant, is subtracted."""
    values, where = (similar - hidden).max(axis)
    return values + hidden.expand_as(similar).gather(axis, where.unsqueeze(axis)).squeeze(axis)


def _parts(bytes_each: int, count: int) -> Iterator[slice]:
    """Slices of `count` rows, each of which needs `bytes_each`; one empty slice where there are none."""
    if torch.compiler.is_exporting():  # the number of rows stays open
        yield slice(None)
        return
    size = max(1, int(_PART_BYTES // max(bytes_each, 1)))
    for start in range(0, max(count, 1), size):
        yield slice(start, start + size)
