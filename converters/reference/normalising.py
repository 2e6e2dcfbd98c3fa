"""Normalisations that onnx's reference evaluator computes wrongly, by their definition in the standard.

1. BatchNormalization below opset 14 mixes statistics of the batch into the running ones; a node with one output is in
   test mode, whatever its `momentum`.
2. BatchNormalization and InstanceNormalization broadcast parameters of another number than the channels.
3. Softmax, LogSoftmax and Hardmax below opset 13 work along one axis; those revisions flatten all axes from `axis` on,
   and their default is 1.
4. LRN fills as many channels as there are images.
5. LpNormalization with p = 1 sums without taking absolute values.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.ops.op_batch_normalization import BatchNormalization_14
from onnx.reference.ops.op_instance_normalization import InstanceNormalization as InstanceNormalization_1

from .operator_base import CorrectedOperator

__all__ = ["LRN", "BatchNormalization", "Hardmax", "InstanceNormalization", "LogSoftmax", "LpNormalization", "Softmax"]

Array = NDArray[Any]
_FLATTENED_BELOW = 13


class BatchNormalization(CorrectedOperator):
    """(x - mean) / sqrt(var + epsilon) * scale + bias, per channel; per element where `spatial` is 0 (opset 7, 8).

    Raises:
        NotImplementedError: training mode below opset 14, which returns statistics besides.
        ValueError: as many parameters as there are channels were expected.
    """

    def _run(self, x: Array, scale: Array, bias: Array, mean: Array, var: Array, **attributes: Any) -> Any:
        if attributes.get("spatial", 1) != 0:
            _check_channels(x, scale, bias, mean, var)
        if self.opset >= 14:
            known = {name: attributes[name] for name in ("epsilon", "momentum", "training_mode")}
            return self.by(BatchNormalization_14, x, scale, bias, mean, var, **known)
        if sum(map(bool, self.onnx_node.output)) > 1 or self.opset < 7:
            raise NotImplementedError("BatchNormalization in training mode")
        shape = x.shape[1:] if attributes.get("spatial", 1) == 0 else (-1, *(1,) * (x.ndim - 2))
        scale, bias, mean, var = (array.reshape(shape) for array in (scale, bias, mean, var))
        return ((scale * (x - mean) / np.sqrt(var + attributes["epsilon"]) + bias).astype(x.dtype),)


class InstanceNormalization(CorrectedOperator):
    """(x - mean) / sqrt(var + epsilon) * scale + bias per channel, with the statistics of each image.

    Raises:
        ValueError: as many parameters as there are channels were expected.
    """

    def _run(self, x: Array, scale: Array, bias: Array, epsilon: float = 1e-5) -> Any:
        _check_channels(x, scale, bias)
        return self.by(InstanceNormalization_1, x, scale, bias, epsilon=epsilon)


def _check_channels(x: Array, *parameters: Array) -> None:
    for parameter in parameters:
        if parameter.shape != x.shape[1:2]:
            raise ValueError(f"expected {x.shape[1]} parameters, one per channel, got {list(parameter.shape)}")


class _AlongAxes(CorrectedOperator):
    """A function of rows [N, K], applied along one axis, or below opset 13 along all axes from one on."""

    def _run(self, x: Array, axis: int = -1) -> tuple[Array]:
        if self.opset < _FLATTENED_BELOW:
            start = axis % max(x.ndim, 1) if self.states("axis") else 1
            rows = x.reshape(math.prod(x.shape[:start]), -1)
            return (self.of_rows(rows).reshape(x.shape).astype(x.dtype),)
        last = np.moveaxis(x, axis, -1)
        rows = last.reshape(-1, last.shape[-1]) if x.size else last.reshape(0, max(last.shape[-1], 1))
        return (np.moveaxis(self.of_rows(rows).reshape(last.shape), -1, axis).astype(x.dtype),)

    def of_rows(self, rows: Array) -> Array:
        """The function of each row."""
        raise NotImplementedError


class Softmax(_AlongAxes):
    """exp(x) / sum(exp(x)), shifted by the maximum."""

    def of_rows(self, rows: Array) -> Array:
        """See the class."""
        powers = np.exp(rows - rows.max(axis=1, keepdims=True, initial=-np.inf))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


class LogSoftmax(_AlongAxes):
    """x - log(sum(exp(x))), shifted by the maximum."""

    def of_rows(self, rows: Array) -> Array:
        """See the class."""
        shifted = rows - rows.max(axis=1, keepdims=True, initial=-np.inf)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


class Hardmax(_AlongAxes):
    """1 at the first maximum, 0 elsewhere."""

    def of_rows(self, rows: Array) -> Array:
        """See the class."""
        result = np.zeros_like(rows)
        if rows.size:
            result[np.arange(len(rows)), rows.argmax(axis=1)] = 1
        return result


class LRN(CorrectedOperator):
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels) ** beta."""

    def _run(self, x: Array, alpha: float, beta: float, bias: float, size: int) -> tuple[Array]:
        before, after = math.floor((size - 1) / 2), math.ceil((size - 1) / 2)
        around = [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)]
        squares = np.lib.stride_tricks.sliding_window_view(np.pad(x * x, around), size, axis=1).sum(axis=-1)
        return ((x / (bias + alpha / size * squares) ** beta).astype(x.dtype),)


class LpNormalization(CorrectedOperator):
    """x / (sum of |x| ** p) ** (1 / p) along one axis; 0 where that norm is 0."""

    def _run(self, x: Array, axis: int, p: int) -> tuple[Array]:
        norm = (np.abs(x) ** p).sum(axis=axis, keepdims=True) ** (1.0 / p)
        return (np.divide(x, norm, out=np.zeros_like(x), where=norm != 0),)
