"""Gradient checkpointing of a backbone: `model.gradient_checkpointing`.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174: the activations at a few places are
kept, and those between are computed again in the backward pass, by torch's own `checkpoint`. A converted graph is cut
into about sqrt(nodes) parts where it computes; of other networks, each block of a sequence is a part.

The second forward pass must not move running statistics again: in it BatchNorms write into copies. So weights,
statistics and gradients are those of the run without checkpointing, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.split_module import split_module
from torch.utils.checkpoint import checkpoint

from ...errors import ConfigError

__all__ = ["Checkpointed"]


def _nothing_around(_: nn.Module) -> AbstractContextManager[None]:
    return nullcontext()


class Checkpointed:
    """Calls a backbone part by part, each part checkpointed; the backbone itself stays as it is.

    `around` gives the context in which a part computes again; the first time, the caller's own context holds.

    Raises:
        ConfigError: the network has no parts.
    """

    def __init__(
        self, backbone: nn.Module, around: Callable[[nn.Module], AbstractContextManager[None]] = _nothing_around
    ) -> None:
        self._backbone, self._around = backbone, around
        self.whole: nn.Module = _in_parts(backbone) if isinstance(backbone, fx.GraphModule) else backbone
        """The backbone, cut into parts where it is a graph; layers and parameters are the same objects."""
        self.parts = _parts(self.whole)
        if not self.parts:
            raise ConfigError(
                "model.gradient_checkpointing: the network has no sequence of blocks to cut it at; set it to false"
            )

    def __call__(self, images: torch.Tensor) -> Any:
        """The outputs of the backbone for images, as the backbone itself gives them."""
        if not (self._backbone.training and torch.is_grad_enabled()):
            return self._backbone(images)
        with _each_checkpointed(self.parts, self._around):
            return self.whole(images)


def _in_parts(backbone: fx.GraphModule) -> nn.Module:
    """The graph as a module of consecutive parts, which share the layers and parameters of `backbone`."""
    computing = [node for node in backbone.graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
    size = max(1, math.ceil(math.sqrt(len(computing))))
    number = {node: position // size for position, node in enumerate(computing)}
    return split_module(backbone, backbone, lambda node: number.get(node, 0), keep_original_order=True)


def _parts(whole: nn.Module) -> list[nn.Module]:
    """The parts to checkpoint: those of a split graph, or the outermost blocks of the network's sequences."""
    if isinstance(whole, fx.GraphModule):
        return list(whole.children())
    found: list[nn.Module] = []
    for child in whole.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            found += [block for block in child if any(True for _ in block.children())]
        else:
            found += _parts(child)
    return found


@contextmanager
def _each_checkpointed(
    parts: list[nn.Module], around: Callable[[nn.Module], AbstractContextManager[None]]
) -> Iterator[None]:
    for part in parts:
        part.forward = _checkpointing(part, part.forward, around)
    try:
        yield
    finally:
        for part in parts:
            del part.forward


def _checkpointing(
    part: nn.Module, forward: Callable[..., Any], around: Callable[[nn.Module], AbstractContextManager[None]]
) -> Callable[..., Any]:
    @contextmanager
    def again() -> Iterator[None]:
        with _statistics_held(part), around(part):
            yield

    def run(*inputs: Any) -> Any:
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), again()))

    return run


@contextmanager
def _statistics_held(part: nn.Module) -> Iterator[None]:
    """Within the context, BatchNorms in training mode move copies of their running statistics."""
    layers = [each for each in part.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm) and each.training]
    kept = [dict(layer._buffers) for layer in layers]
    for layer, buffers in zip(layers, kept, strict=True):
        layer._buffers.update({name: None if value is None else value.clone() for name, value in buffers.items()})
    try:
        yield
    finally:
        for layer, buffers in zip(layers, kept, strict=True):
            layer._buffers.update(buffers)
