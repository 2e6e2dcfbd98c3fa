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

__all__ = ["PartAttention", "rows_of_parts", "strip_means"]


def strip_means(features: Tensor, parts: int) -> Tensor:
    """Mean of each of `parts` horizontal strips: features [N, C, H, W] -> [N, parts, C].

    Strip i reaches from row floor(i H / parts) to row ceil((i + 1) H / parts), as in torch's adaptive pooling; strips
    share a row where `parts` does not divide H.

    Raises:
        InputError: fewer rows than parts.
    """
    height = features.shape[2]
    if height < parts:
        raise InputError(
            f"the operation part needs a row for each of its {parts} parts, and here the features are {height} high; "
            "use higher images, or a cell without part"
        )
    strips = [features[:, :, i * height // parts : -(-(i + 1) * height // parts)] for i in range(parts)]
    return torch.stack([strip.mean(dim=(2, 3)) for strip in strips], dim=1)


def rows_of_parts(values: Tensor, height: int) -> Tensor:
    """Rows of a feature map, each of the part it lies in: values [N, parts, C] -> [N, C, height, 1].

    Row y gets part floor(y parts / height).
    """
    parts = values.shape[1]
    part_of_row = torch.tensor([row * parts // height for row in range(height)], device=values.device)
    return values.transpose(1, 2).index_select(2, part_of_row).unsqueeze(3)


class PartAttention(nn.Module):
    """Features [N, C, H, W] -> [N, C, ceil(H / stride), ceil(W / stride)].

    P [N, 4, C] are the means of four strips; Q, K, V = P W; softmax(Q K^T / sqrt(C)) V, the softmax over parts, goes to
    each strip's rows and is joined to the input: ReLU, 1 x 1 convolution from 2C to C, BatchNorm.
    """

    def __init__(self, channels: int, stride: int, *, affine: bool) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(2 * channels, channels, 1, stride, bias=False)
        self.bn = nn.BatchNorm2d(channels, affine=affine)

    def attention(self, parts: Tensor) -> Tensor:
        """How much each part reads of each: parts [N, M, C] -> [N, M, M], rows that sum to 1."""
        scores = self.query(parts) @ self.key(parts).transpose(1, 2)
        return torch.softmax(scores * parts.shape[2] ** -0.5, dim=2)

    def exchanged(self, features: Tensor) -> Tensor:
        """What the parts exchanged, at each row: features [N, C, H, W] -> [N, C, H, 1]."""
        parts = strip_means(features, PARTS)
        return rows_of_parts(self.attention(parts) @ self.value(parts), features.shape[2])

    def forward(self, x: Tensor) -> Tensor:
        """The operation."""
        joined = torch.cat([x, self.exchanged(x).expand(-1, -1, -1, x.shape[3]).to(x.dtype)], dim=1)
        out: Tensor = self.bn(self.conv(self.relu(joined)))
        return out
