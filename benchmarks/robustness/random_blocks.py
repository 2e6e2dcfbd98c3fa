"""The parts that random networks are made of: what re-identification, face and image models are written with.

Each takes and returns a feature map [N, C, H, W], works at any batch and treats every image for itself. They are
written in the several ways in which people write them, since exporters make other graphs of each.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BLOCKS", "Shuffle", "WindowAttention", "activation"]

_ACTIVATIONS: tuple[Callable[[int], nn.Module], ...] = (
    lambda _: nn.ReLU(),
    lambda c: nn.PReLU(c),
    lambda _: nn.PReLU(),
    lambda _: nn.SiLU(),
    lambda _: nn.GELU(),
    lambda _: nn.GELU("tanh"),
    lambda _: nn.Hardswish(),
    lambda _: nn.LeakyReLU(0.1),
    lambda _: nn.ELU(0.7),
    lambda _: nn.Mish(),
    lambda _: nn.Softplus(),
    lambda _: nn.ReLU6(),
    lambda _: nn.Identity(),
)


def activation(rng: random.Random, channels: int) -> nn.Module:
    """Any activation."""
    return rng.choice(_ACTIVATIONS)(channels)


def _norm(rng: random.Random, channels: int) -> nn.Module:
    groups = 2 if channels % 2 == 0 else 1
    choices: tuple[Callable[[], nn.Module], ...] = (
        lambda: nn.BatchNorm2d(channels),
        lambda: nn.BatchNorm2d(channels, eps=1e-3),
        lambda: nn.GroupNorm(groups, channels),
        lambda: nn.InstanceNorm2d(channels, affine=rng.random() < 0.7),
        lambda: LayerNorm2d(rng, channels),
    )
    return rng.choice((choices[0], *choices))()


class LayerNorm2d(nn.Module):
    """LayerNorm over channels, as ConvNeXt and others write it by hand."""

    def __init__(self, rng: random.Random, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(1 + 0.1 * torch.randn(channels)), nn.Parameter(torch.randn(channels) / 9)
        self.form, self.eps = rng.choice(("pow", "var", "functional", "rms")), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "functional":
            y = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
            return y.permute(0, 3, 1, 2)
        centred = x if self.form == "rms" else x - x.mean(1, keepdim=True)
        spread = x.var(1, keepdim=True, unbiased=False) if self.form == "var" else centred.pow(2).mean(1, keepdim=True)
        y = centred * torch.rsqrt(spread + self.eps) if self.form == "rms" else centred / torch.sqrt(spread + self.eps)
        return self.weight[:, None, None] * y + self.bias[:, None, None]


class OddConv(nn.Module):
    """A convolution whose paddings, strides or kernel differ per axis and side."""

    def __init__(self, rng: random.Random, channels: int) -> None:
        super().__init__()
        kernel = (rng.choice((1, 2, 3, 5)), rng.choice((1, 3, 4)))
        self.pads = [rng.randint(0, 2) for _ in range(4)] if rng.random() < 0.4 else []
        self.mode = rng.choice(("constant", "reflect", "replicate"))
        padding = 0 if self.pads else (kernel[0] // 2, kernel[1] // 2)
        groups = rng.choice([g for g in (1, 2, channels) if channels % g == 0])
        self.conv = nn.Conv2d(channels, channels, kernel, rng.choice((1, 1, 2, (2, 1))), padding, groups=groups)
        self.norm, self.act = _norm(rng, channels), activation(rng, channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.pads:
            x = F.pad(x, self.pads, self.mode)
        return self.act(self.norm(self.conv(x)))  # type: ignore[no-any-return]


class Dilated(nn.Module):
    """`padding="same"`, dilated, without a bias."""

    def __init__(self, rng: random.Random, channels: int) -> None:
        super().__init__()
        kernel, dilation = rng.choice((2, 3, 4)), rng.choice((1, 2))
        self.conv = nn.Conv2d(channels, channels, kernel, padding="same", dilation=dilation, bias=False)
        self.norm = _norm(rng, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


class Transposed(nn.Module):
    """Up by a transposed convolution and down again."""

    def __init__(self, rng: random.Random, channels: int) -> None:
        super().__init__()
        kernel, groups = rng.choice((2, 3, 4)), rng.choice([g for g in (1, 2) if channels % g == 0])
        extra = rng.choice((0, 1))
        self.up = nn.ConvTranspose2d(channels, channels, kernel, 2, rng.choice((0, 1)), extra, groups=groups)
        self.norm, self.down = _norm(rng, channels), rng.choice((nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.norm(self.up(x))))  # type: ignore[no-any-return]


class SqueezeExcite(nn.Module):
    """Channel gates, with linear layers or 1x1 convolutions."""

    def __init__(self, rng: random.Random, channels: int) -> None:
        super().__init__()
        inner, self.linear, self.gate = (
            max(channels // 2, 1),
            rng.random() < 0.5,
            rng.choice(("sigmoid", "hard", "tanh")),
        )
        make: Callable[[int, int], nn.Module] = nn.Linear if self.linear else lambda a, b: nn.Conv2d(a, b, 1)
        self.reduce, self.expand, self.act = make(channels, inner), make(inner, channels), activation(rng, inner)
        if isinstance(self.act, nn.PReLU):
            self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3)) if self.linear else F.adaptive_avg_pool2d(x, 1)
        gate = self.expand(self.act(self.reduce(pooled)))
        gate = F.hardsigmoid(gate) if self.gate == "hard" else getattr(torch, self.gate)(gate)
        return x * (gate[:, :, None, None] if self.linear else gate)


class InstanceBatchNorm(nn.Module):
    """IBN-a (Pan et al., 2018, arXiv:1807.09441): half of the channels by InstanceNorm, half by BatchNorm."""

    def __init__(self, rng: random.Random, channels: int) -> None:
        super().__init__()
        self.first, self.split = max(channels // 2, 1), rng.random() < 0.5
        self.instance = nn.InstanceNorm2d(self.first, affine=True)
        self.batch = nn.BatchNorm2d(channels - self.first) if channels > self.first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        parts = (
            torch.split(x, [self.first, x.shape[1] - self.first], 1)
            if self.split
            else (x[:, : self.first], x[:, self.first :])
        )
        return torch.cat([self.instance(parts[0].contiguous()), self.batch(parts[1].contiguous())], 1)


class Shuffle(nn.Module):
    """Channel shuffle (Zhang et al., 2018, arXiv:1707.01083) round a depthwise convolution."""

    def __init__(self, rng: random.Random, channels: int) -> None:
        super().__init__()
        self.groups, self.own = 2 if channels % 2 == 0 else 1, rng.random() < 0.5
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=rng.random() < 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape, its channels in another order."""
        y = self.conv(x)
        if self.own:
            n, c, h, w = y.shape
            y = y.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        else:
            y = F.channel_shuffle(y, self.groups)
        return x + y  # type: ignore[no-any-return]


class WindowAttention(nn.Module):
    """Attention in windows of the map, padded to whole ones, shifted or not (Liu et al., 2021, arXiv:2103.14030)."""

    def __init__(self, rng: random.Random, channels: int) -> None:
        super().__init__()
        self.window, self.shift = rng.choice((2, 3)), rng.choice((0, 1))
        self.heads = rng.choice([h for h in (1, 2) if channels % h == 0])
        self.norm, self.qkv, self.project = (
            nn.LayerNorm(channels),
            nn.Linear(channels, 3 * channels),
            nn.Linear(channels, channels),
        )
        self.bias = nn.Parameter(0.1 * torch.randn(self.heads, self.window**2, self.window**2))
        self.fused = rng.random() < 0.4

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        n, c, h, w = x.shape
        size, y = self.window, self.norm(x.permute(0, 2, 3, 1))
        below, right = (-h) % size, (-w) % size
        y = F.pad(y, (0, 0, 0, right, 0, below))
        if self.shift:
            y = torch.roll(y, (-1, -1), (1, 2))
        rows, columns = (h + below) // size, (w + right) // size
        y = y.view(n, rows, size, columns, size, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)
        q, k, v = self.qkv(y).reshape(-1, size * size, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        else:
            y = (q * (c // self.heads) ** -0.5 @ k.transpose(-2, -1) + self.bias).softmax(-1) @ v
        y = self.project(y.transpose(1, 2).reshape(-1, size * size, c))
        y = y.view(n, rows, columns, size, size, c).permute(0, 1, 3, 2, 4, 5).reshape(n, rows * size, columns * size, c)
        if self.shift:
            y = torch.roll(y, (1, 1), (1, 2))
        return x + y[:, :h, :w].permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class SpatialGate(nn.Module):
    """The spatial half of CBAM (Woo et al., 2018, arXiv:1807.06521)."""

    def __init__(self, rng: random.Random, channels: int) -> None:  # noqa: ARG002 (all blocks are made alike)
        super().__init__()
        self.conv = nn.Conv2d(2, 1, rng.choice((3, 7)), padding="same", bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


class Resized(nn.Module):
    """Down and up again, by sizes or factors, beside itself."""

    def __init__(self, rng: random.Random, channels: int) -> None:
        super().__init__()
        self.mode, self.by_size = rng.choice(("nearest", "bilinear")), rng.random() < 0.5
        self.align = None if self.mode == "nearest" else rng.random() < 0.5
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.avg_pool2d(x, 2, ceil_mode=True)
        size = x.shape[2:]
        if self.by_size:
            y = F.interpolate(y, size=size, mode=self.mode, align_corners=self.align)
        else:
            y = F.interpolate(y, scale_factor=2, mode=self.mode, align_corners=self.align)[:, :, : size[0], : size[1]]
        return x + self.mix(y)  # type: ignore[no-any-return]


class SpaceToDepth(nn.Module):
    """Pixel unshuffle, a convolution, and pixel shuffle."""

    def __init__(self, rng: random.Random, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4 * channels, 4 * channels, 1, groups=rng.choice((1, 4)))

    def forward(self, x: Tensor) -> Tensor:
        even = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
        return F.pixel_shuffle(torch.relu(self.conv(F.pixel_unshuffle(even, 2))), 2)


class ResponseNorm(nn.Module):
    """Global response normalisation (Woo et al., 2023, arXiv:2301.00808)."""

    def __init__(self, rng: random.Random, channels: int) -> None:  # noqa: ARG002 (all blocks are made alike)
        super().__init__()
        self.gamma, self.beta = (nn.Parameter(0.1 * torch.randn(1, channels, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True) + 1e-6
        return x + self.gamma * (x * (size / (size.mean(1, keepdim=True) + 1e-6))) + self.beta  # type: ignore[no-any-return]


class AxisGate(nn.Module):
    """Coordinate attention (Hou et al., 2021, arXiv:2103.02907): gates along rows and along columns."""

    def __init__(self, rng: random.Random, channels: int) -> None:  # noqa: ARG002 (all blocks are made alike)
        super().__init__()
        self.mix, self.rows, self.columns = (nn.Conv2d(channels, channels, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        along = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)], 2)
        rows, columns = torch.split(torch.relu(self.mix(along)), [h, w], 2)
        return x * self.rows(rows).sigmoid() * self.columns(columns.permute(0, 1, 3, 2)).sigmoid()  # type: ignore[no-any-return]


BLOCKS: tuple[Callable[[random.Random, int], nn.Module], ...] = (
    OddConv, OddConv, Dilated, Transposed, SqueezeExcite, InstanceBatchNorm, LayerNorm2d, Shuffle, WindowAttention,
    SpatialGate, Resized, SpaceToDepth, ResponseNorm, AxisGate,
)  # fmt: skip
