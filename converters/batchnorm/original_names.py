"""Find the BatchNorms of a fused network's original, where its layers are those of an architecture of the zoo.

A fused file has the names of Convs but rarely those of BatchNorms. Names and channels of all Convs together identify a
public network, whose BatchNorms are known: in an OSNet, `conv2d.1.bn` follows `conv2d.1.conv2`, against the usual
convention. The names may have a wrapper's prefix (`backbone.`).
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

from ..zoo.facts import FACTS
from ..zoo.registry import build_architecture

__all__ = ["OriginalBatchNorm", "OriginalNetwork", "find_original"]

_Sizes = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class _Layout:
    """What identifies a network. Kernel sizes do not count, because a global one depends on the image size."""

    convolutions: _Sizes
    """Path, output channels and input channels per group of every convolution, sorted."""
    instance_norms: int


_BETWEEN = (nn.Dropout, nn.Dropout2d, nn.Identity)


@dataclass(frozen=True)
class OriginalBatchNorm:
    """The path and eps of a BatchNorm of the original."""

    path: str
    eps: float


@dataclass(frozen=True)
class OriginalNetwork:
    """The recognised architecture; paths are those of the converted module."""

    name: str
    layers: frozenset[str]
    """Paths of all its Convs and Linears."""
    batchnorms: Mapping[str, OriginalBatchNorm]
    """Path of a Conv or Linear -> the BatchNorm directly behind it."""


def find_original(module: nn.Module) -> OriginalNetwork | None:
    """The architecture of the zoo with exactly the convolutions of `module`, by name and channels; None if none has."""
    own = _layout(module)
    if not own.convolutions:
        return None
    for name in FACTS:
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
    """The prefix of all names in `own` compared with `known`, mostly ""; None where the layers differ."""
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
    """The architecture on the meta device, without weights; the random generator is not advanced."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return build_architecture(name)
