"""ResNet-50 for re-identification: last stride 1, global pooling, 512-d embedding; optionally IBN-a normalisation.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385; last stride 1 as in
Luo et al.: "Bag of Tricks and A Strong Baseline for Deep Person Re-identification", arXiv:1903.07071; IBN-a from Pan
et al.: "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net", ECCV 2018, arXiv:1807.09441. The
backbone has torchvision's parameter names (and IBN-Net's `bn1.IN`, `bn1.BN`), the embedding layers have those of
deep-person-reid's `resnet50_fc512`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ResNet50"]

_DEPTHS = (3, 4, 6, 3)
_EXPANSION = 4


class _InstanceBatchNorm(nn.Module):
    """IBN-a: InstanceNorm on the first half of the channels, BatchNorm on the rest."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.split = channels // 2
        self.IN = nn.InstanceNorm2d(self.split, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.split)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.split(x, self.split, dim=1)
        return torch.cat((self.IN(first.contiguous()), self.BN(second.contiguous())), dim=1)


class _Bottleneck(nn.Module):
    """1x1 - 3x3 (stride) - 1x1, each with normalisation, plus the shortcut."""

    def __init__(self, inputs: int, planes: int, stride: int, *, ibn: bool) -> None:
        super().__init__()
        outputs = planes * _EXPANSION
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = _InstanceBatchNorm(planes) if ibn else nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        activated: Tensor = self.relu(out + shortcut)
        return activated


class ResNet50(nn.Module):
    """Images [N, 3, H, W] float32 -> embeddings [N, embedding_size], non-negative.

    With `embedding_size=None` the pooled 2048-d features are the embedding. `ibn` uses IBN-a in the first three stages;
    `last_stride` is the stride of the fourth. `mid` pools the third stage as well, and joins its 1024 features to those
    of the fourth: Yu et al., "The Devil is in the Middle: Exploiting Mid-level Representations for Cross-Domain
    Instance Matching", arXiv:1711.08106.
    """

    def __init__(
        self, *, ibn: bool = False, last_stride: int = 1, embedding_size: int | None = 512, mid: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._stage(64, 64, _DEPTHS[0], 1, ibn)
        self.layer2 = self._stage(256, 128, _DEPTHS[1], 2, ibn)
        self.layer3 = self._stage(512, 256, _DEPTHS[2], 2, ibn)
        self.layer4 = self._stage(1024, 512, _DEPTHS[3], last_stride, False)
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc: nn.Module = nn.Identity()
        self._mid = mid
        if embedding_size is not None:
            self.fc = nn.Sequential(
                nn.Linear(3072 if mid else 2048, embedding_size), nn.BatchNorm1d(embedding_size), nn.ReLU(inplace=True)
            )
        self._initialise()

    @staticmethod
    def _stage(inputs: int, planes: int, depth: int, stride: int, ibn: bool) -> nn.Sequential:
        blocks = [_Bottleneck(inputs, planes, stride, ibn=ibn)]
        blocks += [_Bottleneck(planes * _EXPANSION, planes, 1, ibn=ibn) for _ in range(depth - 1)]
        return nn.Sequential(*blocks)

    def feature_map(self, x: Tensor) -> Tensor:
        """The last convolutional features [N, 2048, H/16, W/16], for heads that work on positions."""
        return self._stages(x)[1]

    def _stages(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The features of the third stage and of the fourth."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        third = self.layer3(self.layer2(self.layer1(x)))
        return third, self.layer4(third)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> embeddings."""
        third, fourth = self._stages(x)
        pooled = self.global_avgpool(fourth).flatten(1)
        if self._mid:
            pooled = torch.cat([self.global_avgpool(third).flatten(1), pooled], dim=1)
        out: Tensor = self.fc(pooled)
        return out

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
                nn.init.zeros_(module.bias)
