"""Average pooling with unequal paddings and any `count_include_pad`, which torch's own cannot do.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

from typing import List  # noqa: UP035 - TorchScript knows only this spelling

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["average_pool_padded"]


def average_pool_padded(
    x: Tensor,
    kernel: List[int],  # noqa: UP006
    stride: List[int],  # noqa: UP006
    pads: List[int],  # noqa: UP006
    include_pad: bool,
) -> Tensor:
    """Average over windows of `x` [N, C, spatial...] padded by `pads` (in the order of `F.pad`).

    Without `include_pad` only elements of `x` itself count.
    """
    padded = F.pad(x, pads)
    pool = F.avg_pool1d if len(kernel) == 1 else F.avg_pool2d if len(kernel) == 2 else F.avg_pool3d
    averages = pool(padded, kernel, stride)
    if include_pad:
        return averages
    counted = pool(F.pad(torch.ones_like(x[:1, :1]), pads), kernel, stride)
    return averages / counted
