"""BatchNorm over the batches of all processes: `model.sync_batchnorm`.

torch's SyncBatchNorm runs on GPUs alone and replaces layers, which a converted graph would count as an edit. Here the
layers stay, and compute their training statistics over all ranks within a context. Mean and variance are those of the
joined batch (two sums over ranks, so that nothing is a small difference of large numbers); the gradient is that of
batch normalisation, Ioffe and Szegedy, arXiv:1502.03167, section 3, with its two means taken over all ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..processes.collectives import all_reduce_sum, world_size

__all__ = ["synchronised"]


@contextmanager
def synchronised(module: nn.Module) -> Iterator[None]:
    """Within the context, BatchNorms of `module` in training mode use the statistics of all ranks."""
    layers = [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm) and each.training]
    if world_size() == 1:
        layers = []
    for layer in layers:
        layer.forward = partial(_forward, layer)  # type: ignore[method-assign]  # found before the method of the class, which stays
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: nn.modules.batchnorm._BatchNorm, images: Tensor) -> Tensor:
    """The forward pass of one layer over all ranks, on [N, C, ...]; in float32 where images are narrower."""
    wide = images if images.dtype == torch.float64 else images.float()
    normalised = _Normalise.apply(wide, layer.weight, layer.bias, layer.eps)  # type: ignore[no-untyped-call]
    output, mean, variance, count = normalised
    if layer.track_running_stats:
        _track(layer, mean, variance, count)
    result: Tensor = output.to(images.dtype)
    return result


@torch.no_grad()
def _track(layer: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Move the running statistics, as torch does: by `momentum`, or as a plain average where that is None."""
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
    if layer.running_mean is None or layer.running_var is None:
        return
    share = layer.momentum if layer.momentum is not None else 1 / float(layer.num_batches_tracked or 1)
    unbiased = variance * (count / (count - 1))
    layer.running_mean.lerp_(mean, share)
    layer.running_var.lerp_(unbiased, share)


class _Normalise(torch.autograd.Function):
    """gamma (x - mean) / sqrt(variance + eps) + beta, over all axes but the channels' and over all ranks."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Output, and of the joined batch mean [C], biased variance [C] and the number of values per channel."""
        axes = [axis for axis in range(images.ndim) if axis != 1]
        shape = [1, -1, *[1] * (images.ndim - 2)]
        own = images.new_tensor([images.numel() / images.shape[1]])
        sums = all_reduce_sum(torch.cat([images.sum(dim=axes), own]))
        count = sums[-1]
        mean = sums[:-1] / count
        centred = images - mean.view(shape)
        variance = all_reduce_sum(centred.square().sum(dim=axes)) / count
        inverse = (variance + eps).rsqrt()
        normal = centred * inverse.view(shape)
        ctx.save_for_backward(normal, weight, inverse, count)
        ctx.axes, ctx.shape, ctx.has_bias = axes, shape, bias is not None
        output = normal if weight is None else normal * weight.view(shape)
        output = output if bias is None else output + bias.view(shape)
        ctx.mark_non_differentiable(mean, variance, count)
        return output, mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        normal, weight, inverse, count = ctx.saved_tensors
        axes, shape = ctx.axes, ctx.shape
        by_bias, by_weight = gradient.sum(dim=axes), (gradient * normal).sum(dim=axes)
        means = all_reduce_sum(torch.stack([by_bias, by_weight])) / count
        factor = inverse if weight is None else inverse * weight
        by_images = factor.view(shape) * (gradient - means[0].view(shape) - normal * means[1].view(shape))
        return by_images, None if weight is None else by_weight, by_bias if ctx.has_bias else None, None
