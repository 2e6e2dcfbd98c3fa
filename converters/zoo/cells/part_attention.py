"""The part-aware operation: horizontal strips of a feature map exchange what they hold by attention.

After Quan, Dong, Wu, Zhu, Yang: "Auto-ReID: Searching for a Part-aware ConvNet for Person Re-Identification", ICCV
2019, arXiv:1903.09776. The softmax runs over parts, so that a part can read the others; the public code takes it over
channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....errors import InputError
from .space import PARTS

__all__ = ["PartAttention"]


class PartAttention(nn.Module):
    """Features [N, C, H, W] -> [N, C, ceil(H / stride), ceil(W / stride)].

    P [N, 4, C] are the means of four horizontal strips; Q, K, V = P W; softmax(Q K^T / sqrt(C)) V, the softmax over
    parts, goes to each strip's rows and is joined to the input: ReLU, 1 x 1 convolution from 2C to C, BatchNorm. Strip
    i reaches from row floor(i H / 4) to row ceil((i + 1) H / 4), so strips share a row where 4 does not divide H.
    """

    def __init__(self, channels: int, stride: int, *, affine: bool) -> None:
        super().__init__()
        self.strips = nn.AdaptiveAvgPool2d((PARTS, 1))
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(2 * channels, channels, 1, stride, bias=False)
        self.bn = nn.BatchNorm2d(channels, affine=affine)
        self._scale = channels**-0.5

    def parts(self, features: Tensor) -> Tensor:
        """Means of the strips: features [N, C, H, W] -> [N, 4, C].

        Raises:
            InputError: fewer rows than parts.
        """
        height = features.shape[2]
        if isinstance(height, int) and height < PARTS:  # a symbolic trace has no heights
            raise InputError(
                f"the operation part needs a row for each of its {PARTS} parts, and here the features are {height} "
                "high; use higher images, or a cell without part"
            )
        means: Tensor = self.strips(features)
        return means.squeeze(3).transpose(1, 2)

    def attention(self, parts: Tensor) -> Tensor:
        """How much each part reads of each: parts [N, 4, C] -> [N, 4, 4], rows that sum to 1."""
        scores = self.query(parts) @ self.key(parts).transpose(1, 2)
        return torch.softmax(scores * self._scale, dim=2)

    def exchanged(self, features: Tensor) -> Tensor:
        """What the parts exchanged, at each row: [N, C, H, W] -> [N, C, H, 1]; row y has part floor(4 y / H)."""
        parts = self.parts(features)
        mixed: Tensor = self.attention(parts) @ self.value(parts)
        height = features.shape[2]
        rows = torch.arange(height, device=features.device) * PARTS // height
        return mixed.transpose(1, 2).index_select(2, rows).unsqueeze(3)

    def forward(self, x: Tensor) -> Tensor:
        """The operation."""
        joined = torch.cat([x, self.exchanged(x).expand(-1, -1, -1, x.shape[3]).to(x.dtype)], dim=1)
        out: Tensor = self.bn(self.conv(self.relu(joined)))
        return out
