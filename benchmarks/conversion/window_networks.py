"""Two small networks as ConvNeXt and Swin are written, for what the zoo does not have: scales, windows, masks.

Liu et al.: "A ConvNet for the 2020s", CVPR 2022, arXiv:2201.03545, and Liu et al.: "Swin Transformer: Hierarchical
Vision Transformer using Shifted Windows", ICCV 2021, arXiv:2103.14030. Members are named as in the authors' code, so
that the files look as those one meets; widths and depths are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SIZE", "ConvNeXt", "Swin"]

SIZE = (64, 64)
"""Height and width of the images both take."""


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of [N, C, H, W], written out as in the authors' code."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        out: Tensor = self.weight[:, None, None] * x + self.bias[:, None, None]
        return out


class ConvNeXtBlock(nn.Module):
    """Depthwise 7 x 7, LayerNorm, two Linear over the channels, a scale per channel, and the shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(y)))
        out: Tensor = x + y.permute(0, 3, 1, 2)
        return out


class ConvNeXt(nn.Module):
    """Images [N, 3, H, W] float32 -> embeddings [N, embedding_size]."""

    def __init__(
        self, depths: Sequence[int] = (2, 2, 3, 2), dims: Sequence[int] = (8, 16, 32, 64), embedding_size: int = 32
    ) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), LayerNorm2d(dims[0]))
        pairs = pairwise(dims)
        between = [nn.Sequential(LayerNorm2d(before), nn.Conv2d(before, after, 2, 2)) for before, after in pairs]
        self.downsample_layers = nn.ModuleList([stem, *between])
        blocks = ([ConvNeXtBlock(dim) for _ in range(depth)] for depth, dim in zip(depths, dims, strict=True))
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in blocks)
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head = nn.Linear(dims[-1], embedding_size)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> embeddings."""
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        out: Tensor = self.head(self.norm(x.mean([-2, -1])))
        return out


class WindowAttention(nn.Module):
    """Self-attention within windows [N * windows, window^2, dim], with a bias per relative position."""

    relative_position_index: Tensor

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(0.1 * torch.randn((2 * window - 1) ** 2, heads))
        grid = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        relative = (grid[:, :, None] - grid[:, None, :]).permute(1, 2, 0) + window - 1
        self.register_buffer("relative_position_index", relative[..., 0] * (2 * window - 1) + relative[..., 1])
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        n, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        scores = (qkv[0] * self.scale) @ qkv[1].transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(tokens, tokens, -1)
        scores = scores + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if mask is not None:
            windows = mask.shape[0]
            scores = scores.view(-1, windows, self.heads, tokens, tokens) + mask.unsqueeze(1).unsqueeze(0)
            scores = scores.view(-1, self.heads, tokens, tokens)
        out: Tensor = self.proj((scores.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(n, tokens, dim))
        return out


class Mlp(nn.Module):
    """Linear - GELU - Linear on every token."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class SwinBlock(nn.Module):
    """Window attention and perceptron, each behind a LayerNorm and beside a shortcut; `shift` rolls the windows."""

    attn_mask: Tensor | None

    def __init__(self, dim: int, size: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.size, self.window, self.shift = size, window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.register_buffer("attn_mask", self._mask() if shift else None)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        y = self.norm1(x).view(n, self.size, self.size, dim)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = self._windows(y, dim)
        y = self._image(self.attn(y, self.attn_mask), dim)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y.view(n, tokens, dim)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def _windows(self, x: Tensor, dim: int) -> Tensor:
        side, window = self.size // self.window, self.window
        x = x.view(-1, side, window, side, window, dim)
        return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, window * window, dim)

    def _image(self, x: Tensor, dim: int) -> Tensor:
        side, window = self.size // self.window, self.window
        x = x.view(-1, side, side, window, window, dim)
        return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, self.size, self.size, dim)

    def _mask(self) -> Tensor:
        """-100 between positions that the shift brought together from different sides of the image."""
        image, number = torch.zeros(1, self.size, self.size, 1), 0
        parts = (slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None))
        for rows in parts:
            for columns in parts:
                image[:, rows, columns] = number
                number += 1
        windows = self._windows(image, 1).squeeze(-1)
        return torch.where(windows.unsqueeze(1) == windows.unsqueeze(2), 0.0, -100.0)


class PatchMerging(nn.Module):
    """Four neighbouring tokens become one of twice the width."""

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, _, dim = x.shape
        x = x.view(n, self.size, self.size, dim)
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        out: Tensor = self.reduction(self.norm(x.view(n, -1, 4 * dim)))
        return out


class BasicLayer(nn.Module):
    """A stage: blocks with and without shift in turn, then the merging of patches."""

    def __init__(self, dim: int, size: int, depth: int, heads: int, window: int, *, merge: bool) -> None:
        super().__init__()
        shifts = (window // 2 if index % 2 and size > window else 0 for index in range(depth))
        self.blocks = nn.ModuleList(SwinBlock(dim, size, heads, window, shift) for shift in shifts)
        self.downsample = PatchMerging(dim, size) if merge else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    """Images [N, 3, H, W] -> normalised tokens [N, patches, dim]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 4, 4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.proj(x).flatten(2).transpose(1, 2))
        return out


class Swin(nn.Module):
    """Images [N, 3, 64, 64] float32 -> embeddings [N, embedding_size]."""

    def __init__(self, depths: Sequence[int] = (2, 2, 2), dim: int = 8, embedding_size: int = 32) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(dim)
        stages = len(depths)
        self.layers = nn.ModuleList(
            BasicLayer(dim << i, (SIZE[0] // 4) >> i, depth, 2 << i, 4, merge=i + 1 < stages)
            for i, depth in enumerate(depths)
        )
        self.norm = nn.LayerNorm(dim << (stages - 1))
        self.head = nn.Linear(dim << (stages - 1), embedding_size)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> embeddings."""
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.head(self.norm(x).mean(1))
        return out
