"""Which people the matcher confuses: for `data.sampler: graph`.

Liao and Shao, "Graph Sampling Based Deep Metric Learning for Generalizable Person Re-Identification", CVPR 2022,
arXiv:2104.01546: at the start of an epoch one image per identity is drawn and scored against those of all others; a
batch is an identity with its nearest. With many identities only those are scored that are nearest by the cosine of
embeddings; 10,000 identities would make 1e8 scores.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .described import Described, MatchingModel

__all__ = ["nearest_people", "one_image_each"]

Indices = NDArray[np.int64]

_SCORED = 256
"""People whom each is scored against, by the cosine of embeddings; with fewer than that, against all."""
_IMAGES = 64
"""Images per forward pass."""


def one_image_each(identities: Indices, rng: np.random.Generator) -> Indices:
    """One image of each identity 0..I-1, drawn: image numbers int64 [I]."""
    order = rng.permutation(len(identities))
    return order[np.unique(identities[order], return_index=True)[1]]


@torch.no_grad()
def nearest_people(
    model: MatchingModel, read: Callable[[Indices], Tensor], images: Indices, count: int
) -> NDArray[np.int64]:
    """The `count` people most alike each of I people by the matcher's score, the most alike first: int64 [I, count].

    Args:
        model: In eval mode.
        read: From image numbers to normalised images [n, C, H, W], on the model's device.
        images: The image of each person, int64 [I].
        count: At most I - 1.
    """
    parts = [model.describe(read(images[start : start + _IMAGES])) for start in range(0, len(images), _IMAGES)]
    seen = all(part.visible is not None for part in parts)
    everyone = Described(
        torch.cat([part.embeddings for part in parts]),
        torch.cat([part.maps.half() for part in parts]),  # half of the memory; ranks need no more
        torch.cat([part.visible for part in parts if part.visible is not None]) if seen else None,
    )
    unit = F.normalize(everyone.embeddings)
    wanted = min(max(_SCORED, count), len(images) - 1)
    rows: list[Tensor] = []
    for number in range(len(images)):
        cosines = unit @ unit[number]
        cosines[number] = -torch.inf
        candidates = cosines.topk(wanted).indices
        own = everyone[torch.full((wanted,), number, device=unit.device)]
        scores = model.scores(own, everyone[candidates])
        rows.append(candidates[scores.topk(count).indices])
    return torch.stack(rows).cpu().numpy()
