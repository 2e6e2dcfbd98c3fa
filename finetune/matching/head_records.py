"""What a record of training says of its heads: norms of weights and gradients, and what a loss is to be compared with.

The norms show a head that stands still, or one whose gradient drowns the others. `occlusion_baseline` is the loss of a
visibility head that says 1 everywhere: a loss that is not below it has learned nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from .map_heads import OcclusionHead

__all__ = ["head_records"]


def head_records(names: Iterable[str], heads: nn.ModuleList) -> dict[str, Any]:
    """Entries of a record of training, of the last step: 2-norms over all parameters of a head, after clipping.

    `weight_norms` and `gradient_norms` by name of the loss, for heads with parameters; a head whose gradients are kept
    elsewhere, as PartialFC's, has none. `occlusion_baseline` is a mean over the steps since the last call.
    """
    weights: dict[str, float] = {}
    gradients: dict[str, float] = {}
    record: dict[str, Any] = {}
    for name, head in zip(names, heads, strict=False):
        parameters = list(head.parameters())
        slopes = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if parameters:
            weights[name] = _norm([parameter.detach() for parameter in parameters])
        if slopes:
            gradients[name] = _norm(slopes)
        if isinstance(head, OcclusionHead) and (baseline := head.taken_baseline()) is not None:
            record[f"{name}_baseline"] = float(baseline)
    if weights:
        record["weight_norms"] = weights
    if gradients:
        record["gradient_norms"] = gradients
    return record


def _norm(tensors: list[torch.Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm(tensors))
