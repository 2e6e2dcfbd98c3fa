"""iResNet, the pre-activated residual network with PReLU that ArcFace uses.

Deng, Guo, Xue, Zafeiriou: "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019,
arXiv:1801.07698 (block "improved residual unit", output "E": BN-Dropout-FC-BN). Parameter names are those of
insightface's arcface_torch, so its state_dicts load.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["IResNet"]

_REDUCTION = 16
"""Input size / feature map size: each of the four stages halves the image."""


class _Block(nn.Module):
    """BN - 3x3 - BN - PReLU - 3x3 (stride) - BN, plus the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x)))))) + shortcut
        return out


def _stage(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    first = _Block(inputs, outputs, stride=2)
    return nn.Sequential(first, *(_Block(outputs, outputs, stride=1) for _ in range(depth - 1)))


class IResNet(nn.Module):
    """Aligned faces [N, 3, H, W] float32 -> embeddings [N, embedding_size], not normalised.

    `depths` is the number of blocks per stage; `input_size` is (height, width) in pixels and fixes the size of the
    last linear layer.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        *,
        embedding_size: int = 512,
        input_size: tuple[int, int] = (112, 112),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        height, width = (-(-side // _REDUCTION) for side in input_size)
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        self.layer1 = _stage(64, 64, depths[0])
        self.layer2 = _stage(64, 128, depths[1])
        self.layer3 = _stage(128, 256, depths[2])
        self.layer4 = _stage(256, 512, depths[3])
        self.bn2 = nn.BatchNorm2d(512)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(512 * height * width, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        self._initialise()

    def feature_map(self, x: Tensor) -> Tensor:
        """The last convolutional features [N, 512, H/16, W/16], for heads that work on positions."""
        x = self.prelu(self.bn1(self.conv1(x)))
        out: Tensor = self.bn2(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Images -> embeddings."""
        out: Tensor = self.features(self.fc(self.dropout(self.feature_map(x).flatten(1))))
        return out

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.1)
        # The margin loss sets the scale of the embedding, so gamma of the last BatchNorm stays 1.
        self.features.weight.requires_grad_(False)
