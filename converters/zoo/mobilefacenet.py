"""MobileFaceNet, a small face network of inverted residuals with global depthwise convolution at its end.

Chen, Liu, Gao, Han: "MobileFaceNets", CCBR 2018, arXiv:1804.07573; widened twice and with 512-d embeddings as
in insightface's arcface_torch ("mbf"), whose parameter names it has, so its state_dicts load.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["MobileFaceNet"]

_REDUCTION = 16
_LAST_CHANNELS = 512


def _convolution(
    inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int, padding: int, groups: int
) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class _Layers(nn.Module):
    """A sequence below the name `layers`, as the published state_dicts have it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class _ConvBlock(_Layers):
    """Conv - BN - PReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> None:
        super().__init__(*_convolution(inputs, outputs, kernel, stride, padding, groups), nn.PReLU(outputs))


class _LinearBlock(_Layers):
    """Conv - BN without activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int] = 1, groups: int = 1) -> None:
        super().__init__(*_convolution(inputs, outputs, kernel, 1, 0, groups))


class _Bottleneck(_Layers):
    """Expand 1x1, depthwise 3x3, project 1x1 linearly; with a shortcut when the shapes allow one."""

    def __init__(self, inputs: int, outputs: int, expanded: int, stride: int) -> None:
        super().__init__(
            _ConvBlock(inputs, expanded),
            _ConvBlock(expanded, expanded, 3, stride, 1, groups=expanded),
            _LinearBlock(expanded, outputs),
        )
        self.residual = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


def _residuals(channels: int, expanded: int, depth: int) -> _Layers:
    return _Layers(*(_Bottleneck(channels, channels, expanded, 1) for _ in range(depth)))


class MobileFaceNet(nn.Module):
    """Aligned faces [N, 3, H, W] float32 -> embeddings [N, embedding_size], not normalised.

    `depths` counts the residual bottlenecks of the three stages; `input_size` is (height, width) and fixes
    the kernel of the global depthwise convolution.
    """

    def __init__(
        self,
        depths: tuple[int, int, int] = (4, 6, 2),
        *,
        scale: int = 2,
        embedding_size: int = 512,
        input_size: tuple[int, int] = (112, 112),
    ) -> None:
        super().__init__()
        narrow, wide = 64 * scale, 128 * scale
        self.layers = nn.ModuleList(
            [
                _ConvBlock(3, narrow, 3, 2, 1),
                _ConvBlock(narrow, narrow, 3, 1, 1, groups=64),
                _Bottleneck(narrow, narrow, 128, stride=2),
                _residuals(narrow, 128, depths[0]),
                _Bottleneck(narrow, wide, 256, stride=2),
                _residuals(wide, 256, depths[1]),
                _Bottleneck(wide, wide, 512, stride=2),
                _residuals(wide, 256, depths[2]),
            ]
        )
        self.conv_sep = _ConvBlock(wide, _LAST_CHANNELS)
        height, width = (-(-side // _REDUCTION) for side in input_size)
        self.features = _Layers(
            _LinearBlock(_LAST_CHANNELS, _LAST_CHANNELS, (height, width), groups=_LAST_CHANNELS),
            nn.Flatten(),
            nn.Linear(_LAST_CHANNELS, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )
        self._initialise()

    def feature_map(self, x: Tensor) -> Tensor:
        """The last convolutional features [N, 512, H/16, W/16], for heads that work on positions."""
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.conv_sep(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Images -> embeddings."""
        out: Tensor = self.features(self.feature_map(x))
        return out

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
