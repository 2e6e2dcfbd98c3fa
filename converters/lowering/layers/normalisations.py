"""Normalisation layers: BatchNorm, InstanceNorm, LayerNorm, RMSNorm, GroupNorm."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import nn

from ..exact.normalisations import layer_normalize, rms_normalize
from ..operation import Lowered, Op
from ..registry import lowers

__all__: list[str] = []

_BATCH: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE: dict[int, type[nn.Module]] = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


@lowers("BatchNormalization", since=7, seen=15, trainable=True)
@lowers("BatchNormalization", since=6, until=7, seen=6, trainable=True)
def batch_normalization(op: Op) -> Lowered:
    """`nn.BatchNormNd` in eval mode (arXiv:1502.03167); a function when its weights are computed at run time.

    torch's momentum is 1 minus ONNX's: torch weighs the new statistics, ONNX the old ones.
    """
    if op.attr_int("training_mode", 0) or (op.opset < 7 and not op.attr_int("is_test", 0)):
        raise op.refuse("training_mode=1: the file was exported in training mode; re-export it in eval mode")
    if not op.attr_int("spatial", 1):
        raise op.refuse("spatial=0 (statistics per element) is unsupported; re-export with opset 9 or newer")
    eps = op.attr_float("epsilon", 1e-5)
    rank = op.rank(0)
    if rank not in _BATCH or not all(op.is_weight(index) for index in (1, 2, 3, 4)):
        return op.call(F.batch_norm, op.x(0), op.x(3), op.x(4), op.x(1), op.x(2), False, 0.0, eps)
    channels = op.shape(1)
    if channels is None or len(channels) != 1:
        raise op.refuse(f"scale must be a vector, got shape {channels}; re-export the model")
    options: dict[str, Any] = {
        "num_features": channels[0],
        "eps": eps,
        "momentum": float(np.round(1.0 - op.attr_float("momentum", 0.9), 7)),
    }
    weights = {"weight": op.weight(1), "bias": op.weight(2)}
    buffers = {"running_mean": op.weight(3), "running_var": op.weight(4)}
    return op.module(_BATCH[rank], options, op.x(0), weights=weights, buffers=buffers)


@lowers("InstanceNormalization", since=6, seen=22, trainable=True)
def instance_normalization(op: Op) -> Lowered:
    """`nn.InstanceNormNd` with weights (arXiv:1607.08022)."""
    eps = op.attr_float("epsilon", 1e-5)
    rank = op.rank(0)
    if rank not in _INSTANCE or not (op.is_weight(1) and op.is_weight(2)):
        return op.call(F.instance_norm, op.x(0), None, None, op.x(1), op.x(2), True, 0.0, eps)
    shape = op.shape(1) or ()
    options = {"num_features": shape[0], "eps": eps, "affine": True}
    weights = {"weight": op.weight(1), "bias": op.weight(2)}
    return op.module(_INSTANCE[rank], options, op.x(0), weights=weights)


@lowers("LayerNormalization", since=17, seen=17, trainable=True)
def layer_normalization(op: Op) -> Lowered:
    """`nn.LayerNorm` over the last axes (arXiv:1607.06450); written out for extra outputs or broadcast scales."""
    shape, weight_shape = op.shape(0), op.shape(1)
    axis, eps = op.attr_int("axis", -1), op.attr_float("epsilon", 1e-5)
    normalised = None if shape is None else list(shape[axis % len(shape) :])
    fixed = normalised is not None and all(isinstance(dim, int) for dim in normalised)
    if not fixed or op.uses_output(1) or op.uses_output(2):
        bias = op.x(2) if op.has(2) else None
        found = op.call(layer_normalize, op.x(0), op.x(1), bias, axis, eps, _has_float32_statistics(op))
        return [op.call(operator.getitem, found, i) if op.uses_output(i) else None for i in range(len(op.node.outputs))]
    is_module = op.is_weight(1) and list(weight_shape or ()) == normalised and (not op.has(2) or op.is_weight(2))
    if is_module and (not op.has(2) or op.shape(2) == op.shape(1)):
        options = {"normalized_shape": tuple(normalised or ()), "eps": eps, "bias": op.has(2)}
        weights = {"weight": op.weight(1)} | ({"bias": op.weight(2)} if op.has(2) else {})
        return op.module(nn.LayerNorm, options, op.x(0), weights=weights)
    normed = op.call(F.layer_norm, op.x(0), normalised, None, None, eps)
    scaled = op.call(operator.mul, normed, op.x(1))
    return op.call(operator.add, scaled, op.x(2)) if op.has(2) else scaled


def _has_float32_statistics(op: Op) -> bool:
    """Whether the statistics of a 16-bit input are computed in float32."""
    return op.attr_int("stash_type", 1) == 1 and op.dtype(0) in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@lowers("RMSNormalization", since=23, seen=23, trainable=True)
def rms_normalization(op: Op) -> Lowered:
    """`nn.RMSNorm` (arXiv:1910.07467) if its scale is a weight in the shape of the last axes, else written out."""
    shape, axis, eps = op.shape(0), op.attr_int("axis", -1), op.attr_float("epsilon", 1e-5)
    if shape is not None and op.is_weight(1) and not _has_float32_statistics(op):
        normalised = shape[axis % len(shape) :]
        if op.shape(1) == normalised:
            options = {"normalized_shape": tuple(normalised), "eps": eps}
            return op.module(nn.RMSNorm, options, op.x(0), weights={"weight": op.weight(1)})
    return op.call(rms_normalize, op.x(0), op.x(1), axis, eps, _has_float32_statistics(op))


@lowers("GroupNormalization", since=18, seen=21, trainable=True)
def group_normalization(op: Op) -> Lowered:
    """`nn.GroupNorm` (arXiv:1803.08494); before opset 21 there is one scale per group instead of one per channel."""
    op.output_like_input()
    groups, eps = op.attr_int("num_groups"), op.attr_float("epsilon", 1e-5)
    if op.opset < 21:
        channels = op.size(0, 1)
        if not isinstance(channels, int):
            raise op.refuse("the number of channels is unknown; give the graph inputs fixed channels")
        scale, bias = (op.call(torch.repeat_interleave, op.x(index), channels // groups) for index in (1, 2))
        return op.call(F.group_norm, op.x(0), groups, scale, bias, eps)
    channels = op.size(1, 0)
    if isinstance(channels, int) and op.is_weight(1) and op.is_weight(2):
        options = {"num_groups": groups, "num_channels": channels, "eps": eps}
        return op.module(nn.GroupNorm, options, op.x(0), weights={"weight": op.weight(1), "bias": op.weight(2)})
    return op.call(F.group_norm, op.x(0), groups, op.x(1), op.x(2), eps)
