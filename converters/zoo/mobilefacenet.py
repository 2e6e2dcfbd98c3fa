"""MobileFaceNet, a small face network of inverted residual blocks that ends in a global depthwise convolution.

Chen, Liu, Gao, Han: "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices",
CCBR 2018, arXiv:1804.07573; with twice the channels and 512-d embeddings as in insightface's arcface_torch ("mbf").
Parameter names are those of arcface_torch, so its state_dicts load.
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
    """A sequence named `layers`, as in the published state_dicts."""

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

    `depths` is the number of residual bottlenecks per stage, `scale` multiplies the channels, and `input_size` is
    (height, width) in pixels and fixes the kernel of the global depthwise convolution.
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
        early, late = 64 * scale, 128 * scale
        self.layers = nn.ModuleList(
            [
                _ConvBlock(3, early, 3, 2, 1),
                _ConvBlock(early, early, 3, 1, 1, groups=64),
                _Bottleneck(early, early, 128, stride=2),
                _residuals(early, 128, depths[0]),
                _Bottleneck(early, late, 256, stride=2),
                _residuals(late, 256, depths[1]),
                _Bottleneck(late, late, 512, stride=2),
                _residuals(late, 256, depths[2]),
            ]
        )
        self.conv_sep = _ConvBlock(late, _LAST_CHANNELS)
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
