"""PartialFC: margin softmax over millions of identities, classes sharded over ranks and sampled, updates row-sparse.

Sources: An et al., "Partial FC: Training 10 Million Identities on a Single Machine", arXiv:2010.05222, and An et al.,
"Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs by Partial FC",
arXiv:2203.15565 (arcface_torch's second version). Each rank owns a contiguous part of the class weights. Every shard
computes logits for the embeddings of all ranks; the softmax over all shards needs two all-reduces, the probability of
the label a third. With a sampling rate below 1, a shard uses the classes in the batch and random others, one at least.
With fewer classes than ranks some shards are empty and still join in every collective.

arcface_torch indexes a dense parameter, so momentum and weight decay touch every row and memory is three times the
weights. Here the sampled rows alone are a leaf of autograd; gradient, state and decay touch only them, and `step`
writes them back by the rules of `row_updates`. Weights and state are outside DDP and outside the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from ..config.choices import MarginGradient
from ..config.optimization import OptimizerConfig
from ..processes.collectives import gather_rows, gather_rows_summing, rank, world_size
from .margin_losses import margin_logits
from .row_updates import row_state, update_rows

__all__ = ["PartialFC", "shard_bounds"]

_SGD = OptimizerConfig(kind="sgd")
_FLOOR = 1e-30
"""Floor of the probabilities before the logarithm; a run that has collapsed shows the loss -log(1e-30) = 69.0776."""


def shard_bounds(classes: int, shard: int, shards: int) -> tuple[int, int]:
    """First class of a shard, and the one after its last; the first `classes % shards` shards hold one class more."""
    size, larger = divmod(classes, shards)
    start = shard * size + min(shard, larger)
    return start, start + size + (shard < larger)


class PartialFC(nn.Module):
    """One rank's shard: weight float32 [shard's classes, D], and the state of its optimizer, by name.

    `forward` gives the loss over all ranks; after `backward`, `step` updates the used rows.
    """

    def __init__(
        self,
        dimension: int,
        classes: int,
        *,
        rate: float = 1.0,
        scale: float = 64.0,
        margins: tuple[float, float, float] = (1.0, 0.5, 0.0),
        gradient: MarginGradient = "exact",
        optimizer: OptimizerConfig = _SGD,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.classes, self.rate = classes, rate
        self._scale, self._margins, self._gradient = scale, margins, gradient
        self._start, end = shard_bounds(classes, rank(), world_size())
        own_seed = seed * 65_537 + rank()
        self._generator = torch.Generator().manual_seed(own_seed)
        size = end - self._start
        weight = torch.empty(size, dimension).normal_(0, 0.01, generator=self._generator)
        if (
            device is not None and device.type == "cuda"
        ):  # rows are sampled there: drawing and copying them takes longer
            self._generator = torch.Generator(device).manual_seed(own_seed)
        # Plain tensors: DDP would make the shards of all ranks alike, as it does with parameters and buffers.
        self.weight = weight.to(device)
        self._optimizer = optimizer
        self.state = row_state(optimizer, self.weight)
        self._rows: Tensor | None = None
        self._sampled: Tensor | None = None

    @property
    def rows_used(self) -> Tensor | None:
        """Positions within this shard of the rows of the last forward pass; None when all were used."""
        return self._rows

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean margin softmax loss over the embeddings of all ranks: a scalar, alike on every rank.

        Args:
            embeddings: [n, D] of this rank; every rank holds the same number.
            labels: int64 [n] over all classes.
        """
        embeddings = gather_rows_summing(embeddings.float())
        labels = gather_rows(labels) - self._start
        labels = torch.where((labels >= 0) & (labels < len(self.weight)), labels, -1)
        labels = self._sample(labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            cosine = F.linear(F.normalize(embeddings), F.normalize(self._sampled_leaf()))
            m1, m2, m3 = self._margins
            logits = margin_logits(cosine, labels, scale=self._scale, m1=m1, m2=m2, m3=m3, gradient=self._gradient)
        loss: Tensor = _ShardedCrossEntropy.apply(logits, labels)  # type: ignore[no-untyped-call]
        return loss

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update the rows of the last forward pass as `optimizer` says; other rows keep weight and state."""
        leaf = self._sampled
        if leaf is None or leaf.grad is None:
            return
        if self._rows is None:
            update_rows(self._optimizer, self.weight, leaf.grad, self.state, lr=lr)
        else:
            rows, state = leaf.detach(), {name: value[self._rows] for name, value in self.state.items()}
            update_rows(self._optimizer, rows, leaf.grad, state, lr=lr)
            self.weight[self._rows] = rows
            for name, value in state.items():
                self.state[name][self._rows] = value
        self._sampled = None

    def gradient(self) -> Tensor | None:
        """Gradient of the rows of the last forward pass [rows, D], before `step`; None without one."""
        return self._sampled.grad if self._sampled is not None else None

    def scale_gradient(self, factor: Tensor | float) -> None:
        """Multiply the gradient in place, for clipping and for taking out the loss scale."""
        if self._sampled is not None and self._sampled.grad is not None:
            self._sampled.grad.mul_(factor)

    def shard_state(self) -> dict[str, Tensor]:
        """The shard for a checkpoint, on the CPU; `load_shards` reads the shards of any number of ranks."""
        tensors = {"weight": self.weight, **self.state}
        return {name: value.cpu() for name, value in tensors.items()} | {"generator": self._generator.get_state()}

    @torch.no_grad()
    def load_shards(self, shards: list[Mapping[str, Any]]) -> None:
        """Copy this rank's classes from the shards of a run on `len(shards)` ranks, given in rank order.

        Raises:
            ConfigError: the shards lack the optimizer's state.
        """
        tensors = {"weight": self.weight, **self.state}
        lacking = sorted(tensors.keys() - shards[0].keys())
        if lacking:
            raise ConfigError(
                f"optimizer.kind {self._optimizer.kind}: the checkpoint's partial_fc has no {', '.join(lacking)}, "
                "for its rows were trained by another optimizer; start a new run"
            )
        start, end = self._start, self._start + len(self.weight)
        for number, shard in enumerate(shards):
            low, high = shard_bounds(self.classes, number, len(shards))
            first, last = max(low, start), min(high, end)
            if first < last:
                for name, own in tensors.items():
                    own[first - start : last - start] = shard[name][first - low : last - low].to(own.device)
        if len(shards) == world_size():
            saved = shards[rank()]["generator"]
            if len(saved) == len(self._generator.get_state()):  # else of another kind of device: the seed stays fresh
                self._generator.set_state(saved)

    def _sample(self, labels: Tensor) -> Tensor:
        """Choose the rows of this step; return the labels as positions among them, -1 for other shards' classes."""
        self._rows = None
        if self.rate >= 1.0 or not self.training:
            return labels
        size = len(self.weight)
        count = max(int(self.rate * size), min(1, size))
        if count < min(len(labels), size):  # the labels of the batch may need more rows; counting them waits for a GPU
            count = max(count, len(torch.unique(labels[labels >= 0])))
        # One place more, where the labels of other shards' classes go.
        priority = torch.cat([self._random(size, labels.device), labels.new_zeros(1, dtype=torch.float32)])
        priority[torch.where(labels >= 0, labels, size)] = 2.0
        self._rows = priority[:size].topk(count).indices.sort().values
        return torch.where(labels >= 0, torch.searchsorted(self._rows, labels.clamp(min=0)), labels)

    def _random(self, count: int, device: torch.device) -> Tensor:
        """Uniform numbers float32 [count], drawn where they are used."""
        return torch.rand(count, generator=self._generator, device=device)

    def _sampled_leaf(self) -> Tensor:
        rows = self.weight if self._rows is None else self.weight[self._rows]
        self._sampled = rows.detach().requires_grad_(torch.is_grad_enabled())
        return self._sampled


class _ShardedCrossEntropy(torch.autograd.Function):
    """-mean log softmax at the label, where each rank holds the logits of its classes; labels -1 lie elsewhere."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        largest = logits.new_full((len(logits), 1), -math.inf)
        if logits.shape[1]:
            largest = logits.amax(dim=1, keepdim=True)
        _reduce(largest, dist.ReduceOp.MAX)
        probabilities = (logits - largest).exp_()
        total = probabilities.sum(dim=1, keepdim=True)
        _reduce(total, dist.ReduceOp.SUM)
        probabilities.div_(total)
        here, column = (labels >= 0)[:, None], labels.clamp(min=0)[:, None]
        at_label = logits.new_zeros(len(logits))
        if logits.shape[1]:
            at_label = torch.where(here, probabilities.gather(1, column), 0).squeeze(1)
        _reduce(at_label, dist.ReduceOp.SUM)
        ctx.save_for_backward(probabilities, here, column)
        return -at_label.clamp(min=_FLOOR).log().mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        probabilities, here, column = ctx.saved_tensors
        result = probabilities.clone()
        if result.shape[1]:
            result.scatter_add_(1, column, -here.to(result.dtype))
        return result.mul_(gradient / len(result)), None


def _reduce(values: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
    if world_size() > 1:
        dist.all_reduce(values, operation)
