"""PCB, the part-based convolutional baseline for person re-identification: one embedding per horizontal stripe.

Sun, Zheng, Yang, Tian, Wang: "Beyond Part Models: Person Retrieval with Refined Part Pooling", ECCV 2018,
arXiv:1711.09349. Parameter names are those of deep-person-reid's `pcb`, so its state_dicts load; its classifiers are
left out, because in rtool classifier weights belong to the losses. The embedding concatenates those of the stripes,
as the `pcb` loss expects.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .resnet import ResNet50

__all__ = ["PCB"]


class _Reduce(nn.Module):
    """1 x 1 convolution, BatchNorm and ReLU, shared by all stripes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class PCB(ResNet50):
    """Images [N, 3, H, W] float32 -> embeddings [N, parts * reduced]; in eval mode each stripe has unit length."""

    def __init__(self, *, parts: int = 6, reduced: int = 256, dropout: float = 0.5, last_stride: int = 1) -> None:
        super().__init__(last_stride=last_stride, embedding_size=None)
        self.parts = parts
        self.parts_avgpool = nn.AdaptiveAvgPool2d((parts, 1))
        self.dropout = nn.Dropout(dropout)
        self.conv5 = _Reduce(2048, reduced)
        nn.init.kaiming_normal_(self.conv5.layers[0].weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Images -> the embeddings of the stripes, concatenated from top to bottom."""
        stripes = self.conv5(self.dropout(self.parts_avgpool(self.feature_map(x)))).squeeze(3)
        if not self.training:
            stripes = F.normalize(stripes, dim=1)
        out: Tensor = stripes.transpose(1, 2).flatten(1)
        return out
