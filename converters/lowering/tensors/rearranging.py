"""Einsum, Tile, DepthToSpace, SpaceToDepth, constants as outputs, and optional values."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...passes.constants.constant_folding import constant_tensor
from ..graph_builder import Weight
from ..operation import Lowered, Op
from ..registry import lowers

__all__: list[str] = []


@lowers("Einsum", since=12, seen=28)
def einsum(op: Op) -> Lowered:
    """`torch.einsum`, which has the same notation."""
    return op.call(torch.einsum, op.attr_string("equation"), *(op.x(index) for index in range(op.count)))


@lowers("Tile", since=6, seen=13)
def tile(op: Op) -> Lowered:
    """The whole tensor repeated along every axis."""
    return op.call(torch.tile, op.x(0), op.integers(1))


@lowers("DepthToSpace", since=1, seen=28)
def depth_to_space(op: Op) -> Lowered:
    """Blocks of channels become blocks of pixels (arXiv:1609.05158); torch's pixel_shuffle is ONNX's mode CRD."""
    size, mode = op.attr_int("blocksize"), op.attr_string("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise op.refuse(f"mode={mode} is unknown; known: DCR, CRD")
    x = op.x(0)
    if mode == "DCR":
        blocks = op.method("unflatten", x, 1, (size * size, -1))
        x = op.call(torch.flatten, op.call(torch.transpose, blocks, 1, 2), 1, 2)
    return op.call(F.pixel_shuffle, x, size)


@lowers("SpaceToDepth", since=1, seen=28)
def space_to_depth(op: Op) -> Lowered:
    """Blocks of pixels become blocks of channels."""
    size, mode = op.attr_int("blocksize"), op.attr_string("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise op.refuse(f"mode={mode} is unknown; known: DCR, CRD")
    x = op.call(F.pixel_unshuffle, op.x(0), size)
    if mode == "CRD":
        return x
    channels = op.method("unflatten", x, 1, (-1, size * size))
    return op.call(torch.flatten, op.call(torch.transpose, channels, 1, 2), 1, 2)


@lowers("Constant", since=1, seen=25)
def constant(op: Op) -> Lowered:
    """A constant that is an output of the graph; all others were folded before."""
    value = op.node.outputs[0]
    value.const_value = constant_tensor(op.node)
    return op.builder.attribute(Weight(value), op.node, trainable=False)


@lowers("OptionalHasElement", since=15, seen=28)
def optional_has_element(op: Op) -> Lowered:
    """Whether the input is present: known at conversion, because only plain tensors can be inputs."""
    return op.call(torch.tensor, op.has(0), **op.builder.device())


@lowers("OptionalGetElement", since=15, seen=28)
def optional_get_element(op: Op) -> Lowered:
    """The input itself: a plain tensor is its own element."""
    return op.x(0)
