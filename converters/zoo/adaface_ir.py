"""IR networks in the form of AdaFace's published weights, 18 to 101 layers.

Kim, Jain and Liu, "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022, arXiv:2204.00964. The block is
that of `iresnet`, named otherwise; it differs by its input block, by a shortcut without weights where the channels stay
(a max pooling of one pixel, which keeps each second one), and by a last BatchNorm without scale and shift. Parameter
names are those of the authors' code, so its state_dicts load. The authors divide the embedding by its norm; here it is
raw, because the norm is what the loss `adaface` reads. Their images are BGR.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["AdaFaceIR"]

_REDUCTION = 16
"""Input size / feature map size: each of the four stages halves the image."""
_CHANNELS = (64, 128, 256, 512)


class _Block(nn.Module):
    """BN - 3x3 - BN - PReLU - 3x3 (stride) - BN, plus the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if inputs != outputs:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return out


class AdaFaceIR(nn.Module):
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
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        height, width = (-(-side // _REDUCTION) for side in input_size)
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        blocks: list[nn.Module] = []
        before = _CHANNELS[0]
        for channels, depth in zip(_CHANNELS, depths, strict=True):
            blocks.append(_Block(before, channels, 2))
            blocks += [_Block(channels, channels, 1) for _ in range(depth - 1)]
            before = channels
        self.body = nn.Sequential(*blocks)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(before * height * width, embedding_size),
            nn.BatchNorm1d(embedding_size, affine=False),
        )
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        """Images -> embeddings."""
        out: Tensor = self.output_layer(self.body(self.input_layer(x)))
        return out

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
