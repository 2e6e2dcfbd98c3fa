"""OSNet, the omni-scale network for person re-identification.

Zhou, Yang, Cavallaro, Xiang: "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019,
arXiv:1905.00953. Parameter names are those of the authors' deep-person-reid, so its state_dicts load; the
classifier is left out, because in rtool classifier weights belong to the losses. Inputs may have any size of at
least 32 x 32; the embedding comes after FC-BatchNorm-ReLU and is not normalised.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["OSNet"]

_GATE_REDUCTION = 16


class _ConvNorm(nn.Module):
    """Conv-BatchNorm, followed by ReLU when `activate`."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, activate: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU() if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


class _LightConv3x3(nn.Module):
    """Lite 3 x 3: a linear 1 x 1 convolution, then a depthwise 3 x 3 one with BatchNorm and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn(self.conv2(self.conv1(x))))
        return out


class _ChannelGate(nn.Module):
    """Unified aggregation gate: one factor in 0..1 per channel and image, from global average pooling."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, channels // _GATE_REDUCTION, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(channels // _GATE_REDUCTION, channels, 1)
        self.gate_activation = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate_activation(self.fc2(self.relu(self.fc1(self.global_avgpool(x)))))
        return x * gate


def _stream(channels: int, depth: int) -> nn.Module:
    layers = [_LightConv3x3(channels) for _ in range(depth)]
    return layers[0] if depth == 1 else nn.Sequential(*layers)


class _OSBlock(nn.Module):
    """Four streams with receptive fields 3, 5, 7 and 9, fused by one gate they share, plus the shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        middle = outputs // 4
        self.conv1 = _ConvNorm(inputs, middle)
        self.conv2a = _stream(middle, 1)
        self.conv2b = _stream(middle, 2)
        self.conv2c = _stream(middle, 3)
        self.conv2d = _stream(middle, 4)
        self.gate = _ChannelGate(middle)
        self.conv3 = _ConvNorm(middle, outputs, activate=False)
        self.downsample = _ConvNorm(inputs, outputs, activate=False) if inputs != outputs else None
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.conv1(x)
        fused = (
            self.gate(self.conv2a(squeezed))
            + self.gate(self.conv2b(squeezed))
            + self.gate(self.conv2c(squeezed))
            + self.gate(self.conv2d(squeezed))
        )
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(self.conv3(fused) + shortcut)
        return out


def _stage(inputs: int, outputs: int, *, reduce: bool) -> nn.Sequential:
    blocks: list[nn.Module] = [_OSBlock(inputs, outputs), _OSBlock(outputs, outputs)]
    if reduce:
        blocks.append(nn.Sequential(_ConvNorm(outputs, outputs), nn.AvgPool2d(2, stride=2)))
    return nn.Sequential(*blocks)


class OSNet(nn.Module):
    """Images [N, 3, H, W] float32 -> embeddings [N, embedding_size], non-negative.

    `width` multiplies the channels 64, 256, 384, 512 of the published x1.0 model.
    """

    def __init__(self, width: float = 1.0, *, embedding_size: int = 512) -> None:
        super().__init__()
        stem, first, second, last = (int(channels * width) for channels in (64, 256, 384, 512))
        self.conv1 = _ConvNorm(3, stem, 7, 2)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = _stage(stem, first, reduce=True)
        self.conv3 = _stage(first, second, reduce=True)
        self.conv4 = _stage(second, last, reduce=False)
        self.conv5 = _ConvNorm(last, last)
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(last, embedding_size), nn.BatchNorm1d(embedding_size), nn.ReLU())
        self._initialise()

    def feature_map(self, x: Tensor) -> Tensor:
        """The last convolutional features [N, C, H/16, W/16], for heads that work on positions."""
        x = self.maxpool(self.conv1(x))
        out: Tensor = self.conv5(self.conv4(self.conv3(self.conv2(x))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Images -> embeddings."""
        out: Tensor = self.fc(self.global_avgpool(self.feature_map(x)).flatten(1))
        return out

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
