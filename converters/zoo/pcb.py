"""PCB, the part-based convolutional baseline for person re-identification: one embedding per horizontal stripe.

Sun, Zheng, Yang, Tian, Wang: "Beyond Part Models: Person Retrieval with Refined Part Pooling", ECCV 2018,
arXiv:1711.09349. Parameter names are those of deep-person-reid's `pcb`, so its state_dicts load; its classifiers are
left out, because in rtool classifier weights belong to the losses. The embedding concatenates those of the stripes,
as the `pcb` loss expects. A global branch, one more embedding of the whole image behind those of the stripes, is that
of later part-based networks, such as Wang et al.: "Learning Discriminative Features with Multiple Granularities for
Person Re-Identification", arXiv:1804.01438.
"""

from __future__ import annotations

import torch
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
    """Images [N, 3, H, W] float32 -> embeddings [N, parts * reduced + global_dim].

    In eval mode each stripe, and the embedding of the whole image, has unit length.
    """

    def __init__(
        self, *, parts: int = 6, reduced: int = 256, dropout: float = 0.5, last_stride: int = 1, global_dim: int = 0
    ) -> None:
        super().__init__(last_stride=last_stride, embedding_size=None)
        self.parts = parts
        self.normalises = True
        """Whether stripes have unit length in eval mode; classifiers are trained on those that have not."""
        self.parts_avgpool = nn.AdaptiveAvgPool2d((parts, 1))
        self.dropout = nn.Dropout(dropout)
        self.conv5 = _Reduce(2048, reduced)
        self.whole = _Reduce(2048, global_dim) if global_dim else None
        for branch in filter(None, (self.conv5, self.whole)):
            nn.init.kaiming_normal_(branch.layers[0].weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Images -> the embeddings of the stripes, concatenated from top to bottom, and of the whole image."""
        features = self.feature_map(x)
        stripes = self.conv5(self.dropout(self.parts_avgpool(features))).squeeze(3)
        unit = self.normalises and not self.training
        if unit:
            stripes = F.normalize(stripes, dim=1)
        out: Tensor = stripes.transpose(1, 2).flatten(1)
        if self.whole is None:
            return out
        whole = self.whole(self.dropout(features.mean(dim=(2, 3), keepdim=True))).flatten(1)
        return torch.cat([out, F.normalize(whole) if unit else whole], dim=1)
