"""Which BatchNorms the original of a fused network had, where its layers are those of an architecture of the zoo.

A fused file tells what a Conv was called, rarely what its BatchNorm was. But the layers of a public network, their
names and channels together, say which network it is; and that knows its own BatchNorms: `conv2d.1.conv2` of an OSNet
was followed by `conv2d.1.bn`, whatever habit says. A wrapper's prefix (`backbone.`) is seen through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from ..zoo.registry import ZOO, build_architecture

__all__ = ["OriginalBatchNorm", "OriginalNetwork", "find_original"]

_Sizes = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class _Layout:
    """What tells networks apart. Kernels do not belong to it: a global one depends on the image size."""

    convolutions: _Sizes
    """Path, output and input channels (a group's) of every convolution, sorted."""
    instance_norms: int


_BETWEEN = (nn.Dropout, nn.Dropout2d, nn.Identity)


@dataclass(frozen=True)
class OriginalBatchNorm:
    """What stood behind a layer: its path and eps."""

    path: str
    eps: float


@dataclass(frozen=True)
class OriginalNetwork:
    """The architecture recognised; paths are those of the converted module."""

    name: str
    layers: frozenset[str]
    """Every Conv and Linear of it."""
    batchnorms: Mapping[str, OriginalBatchNorm]
    """Path of a Conv or Linear -> the BatchNorm directly behind it."""


def find_original(module: nn.Module) -> OriginalNetwork | None:
    """The architecture whose convolutions `module` has, all of them and no others, by name and channels."""
    own = _layout(module)
    if not own.convolutions:
        return None
    for name in ZOO:
        prefix = _prefix(own, _known_layout(name))
        if prefix is not None:
            network = _network(name)
            return OriginalNetwork(
                name,
                frozenset(prefix + path for path in network.layers),
                {prefix + path: OriginalBatchNorm(prefix + b.path, b.eps) for path, b in network.batchnorms.items()},
            )
    return None


def _layout(module: nn.Module) -> _Layout:
    convolutions = ((path, layer) for path, layer in module.named_modules() if isinstance(layer, _ConvNd))
    norms = sum(isinstance(layer, _InstanceNorm) for layer in module.modules())
    return _Layout(tuple(sorted((path, *layer.weight.shape[:2]) for path, layer in convolutions)), norms)


def _prefix(own: _Layout, known: _Layout) -> str | None:
    """What stands before every name of `known` in `own`; None where they are not the same layers."""
    if len(own.convolutions) != len(known.convolutions) or own.instance_norms != known.instance_norms:
        return None
    first, path = known.convolutions[0][0], own.convolutions[0][0]
    prefix = path.removesuffix(first)
    if not path.endswith(first) or not (prefix.endswith(".") or not prefix):
        return None
    expected = tuple((prefix + name, outputs, inputs) for name, outputs, inputs in known.convolutions)
    return prefix if own.convolutions == expected else None


@lru_cache
def _known_layout(name: str) -> _Layout:
    return _layout(_on_meta(name))


@lru_cache
def _network(name: str) -> OriginalNetwork:
    module = fx.symbolic_trace(_on_meta(name))
    layers = [path for path, layer in module.named_modules() if isinstance(layer, _ConvNd | nn.Linear)]
    found = {}
    for node in module.graph.nodes:
        if node.op == "call_module" and node.target in layers:
            for batchnorm in _batchnorms_behind(module, node):
                eps = module.get_submodule(batchnorm).eps
                found[str(node.target)] = OriginalBatchNorm(batchnorm, float(eps))  # type: ignore[arg-type]
    return OriginalNetwork(name, frozenset(layers), found)


def _batchnorms_behind(module: fx.GraphModule, node: fx.Node) -> Iterator[str]:
    for user in node.users:
        layer = module.get_submodule(str(user.target)) if user.op == "call_module" else None
        if isinstance(layer, _BatchNorm):
            yield str(user.target)
        elif isinstance(layer, _BETWEEN):
            yield from _batchnorms_behind(module, user)


def _on_meta(name: str) -> nn.Module:
    """The architecture without weights; the random generator is left as it is."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return build_architecture(name)
