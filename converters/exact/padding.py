"""SAME padding for sizes known only at run time: ONNX's `auto_pad`, as TensorFlow defined it.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

from typing import List  # noqa: UP035 - TorchScript knows only this spelling

import torch.nn.functional as F
from torch import Tensor

__all__ = ["pad_same"]


def pad_same(
    x: Tensor,
    kernel: List[int],  # noqa: UP006
    stride: List[int],  # noqa: UP006
    dilation: List[int],  # noqa: UP006
    upper: bool,
    value: float = 0.0,
) -> Tensor:
    """Pad the last `len(kernel)` axes of `x` so that a window leaves `ceil(size / stride)` positions.

    An odd total puts the extra element at the end when `upper`, else at the beginning.
    """
    pads: List[int] = []  # noqa: UP006
    spatial = len(kernel)
    for index in range(spatial):
        axis = spatial - 1 - index
        size = x.size(x.dim() - 1 - index)
        outputs = (size + stride[axis] - 1) // stride[axis]
        total = max((outputs - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1 - size, 0)
        small = total // 2
        if upper:
            pads += [small, total - small]
        else:
            pads += [total - small, small]
    return F.pad(x, pads, value=value)
