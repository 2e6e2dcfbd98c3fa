"""The layer that remains of a BatchNorm folded into a zero-padded layer behind it: subtracts a constant per channel.

A convolution pads the BatchNorm's output s * x + t with zeros. The input value that BatchNorm maps to zero is
p = -t / s = mean - beta * sqrt(var + eps) / gamma (-beta / gamma in normalised units), and s * x + t = s * (x - p).
So the layer computes the same if x is padded with p per channel and the weights are scaled by s. Padding x with p
equals subtracting p and padding with zeros, which the layer does itself. The border stays exactly zero, the bias is
unchanged, and this holds for every stride, dilation and transposition. It needs s != 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ChannelOffset"]


class ChannelOffset(nn.Module):
    """`y[:, c] = x[:, c] - offset[c]` for x [N, C, ...]; `offset` [C] is a buffer, in the dtype of x."""

    offset: Tensor

    def __init__(self, offset: Tensor, axes: int) -> None:
        """`offset` is a vector [C]; `axes` is the number of axes of x after the channels."""
        super().__init__()
        self.register_buffer("offset", offset.detach().clone().view(-1, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:
        """Return x - offset, in the shape of x."""
        return torch.sub(x, self.offset)
