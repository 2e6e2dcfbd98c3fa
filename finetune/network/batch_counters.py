"""The counters of BatchNorms, moved together: one launch per step instead of one per layer.

torch's BatchNorm adds 1 to `num_batches_tracked` in each forward pass in training mode, by a kernel of its own for a
single number. Where the network is small, launching takes longer than computing. The counter decides something only
where `momentum` is None, and then the layer moves it itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["counted_together", "counting_layers"]

_NAME = "num_batches_tracked"


def counting_layers(module: nn.Module) -> tuple[nn.Module, ...]:
    """The BatchNorms of `module` that count batches without using the number."""
    layers = (each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm))
    return tuple(layer for layer in layers if layer.momentum is not None and layer._buffers.get(_NAME) is not None)


@contextmanager
def counted_together(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Around one forward pass: the counters of those `layers` that are in training mode move by 1 at its end.

    Within the context these layers have no counter. After an error none has moved.
    """
    counters = {layer: layer._buffers[_NAME] for layer in layers if layer.training}
    for layer in counters:
        layer._buffers[_NAME] = None
    try:
        yield
    finally:
        for layer, counter in counters.items():
            layer._buffers[_NAME] = counter
    moved = [counter for counter in counters.values() if counter is not None]
    if moved:
        torch._foreach_add_(moved, 1)
