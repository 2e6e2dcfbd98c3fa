"""ONNX's Expand, which broadcasts in both directions.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

from typing import List  # noqa: UP035 - TorchScript knows only this spelling

from torch import Tensor

__all__ = ["expand_both_ways"]


def expand_both_ways(x: Tensor, shape: List[int]) -> Tensor:  # noqa: UP006
    """Broadcast `x` and a tensor of `shape` together."""
    sizes = list(x.shape)
    added = len(shape) - len(sizes)
    wanted = [1] * (-added) + list(shape)
    sizes = [1] * added + sizes
    return x.expand([size if want == 1 else want for size, want in zip(sizes, wanted)])  # noqa: B905
