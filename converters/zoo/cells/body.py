"""What the supernet and a found network share around their cells: stem, the two inputs of a cell, embedding head."""

from __future__ import annotations

from torch import Tensor, nn

from .operations import Halving, conv_norm
from .space import STEMS, CellPlan

__all__ = ["CellInputs", "EmbeddingHead", "build_stem"]


def build_stem(stem: str, channels: int) -> nn.Sequential:
    """Images [N, 3, H, W] -> features [N, channels, H/4, W/4], rounded up; [N, channels, H, W] of stem `stride1`.

    `stride1`: one 3 x 3 convolution, as DARTS has for small images. `stride4`: two of stride 2, which divide the memory
    of the cells by 16.
    """
    if STEMS[stem] == 1:
        return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
    middle = max(1, channels // 2)
    return nn.Sequential(
        nn.Conv2d(3, middle, 3, 2, 1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, channels, 3, 2, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


class CellInputs(nn.Module):
    """Brings the outputs of the two cells before a cell to its channels, and the first to the size of the second."""

    def __init__(self, plan: CellPlan, *, affine: bool) -> None:
        super().__init__()
        self.before_last = (
            Halving(plan.before_last, plan.channels, affine=affine)
            if plan.follows_reduction
            else conv_norm(plan.before_last, plan.channels, affine=affine)
        )
        self.last = conv_norm(plan.last, plan.channels, affine=affine)

    def forward(self, before_last: Tensor, last: Tensor) -> list[Tensor]:
        """The states 0 and 1 of the cell, [N, C, H, W] each."""
        return [self.before_last(before_last), self.last(last)]


class EmbeddingHead(nn.Module):
    """Global average plus global maximum of features [N, C, H, W], then a linear layer -> embedding [N, size].

    The embedding is what distances compare. A classifier beside them is better trained on its BatchNorm (`neck: true`
    of the loss; Luo et al., arXiv:1903.07071), which belongs to the loss and not to the network.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, size)

    def forward(self, x: Tensor) -> Tensor:
        """The embedding."""
        out: Tensor = self.fc(x.mean(dim=(2, 3)) + x.amax(dim=(2, 3)))
        return out
