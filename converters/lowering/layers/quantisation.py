"""Quantised models: QuantizeLinear and its inverse, integer matrix products and convolutions (arXiv:1712.05877)."""

from __future__ import annotations

import operator
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from ..exact.quantisation import (
    cast_to_float8,
    cast_to_narrow_float,
    dequantize,
    dynamic_quantize,
    integer_convolution,
    integer_matmul,
    quantize,
    requantize,
    spread,
)
from ..operation import Lowered, Op
from ..registry import lowers
from ..values import NARROW_FLOATS, NARROW_INTEGERS, torch_dtype
from .windows import window_of

__all__: list[str] = []


def _optional(op: Op, index: int) -> fx.Node | None:
    return op.x(index) if op.has(index) else None


def _known_dtype(op: Op, dtype: ir.DataType) -> torch.dtype:
    found = torch_dtype(dtype)
    if found is None:
        raise op.refuse(f"torch has no element type for {dtype.name}")
    return found


def _axis(op: Op) -> int:
    """The axis of the scales; with a single scale it has no meaning, and its default may be out of range."""
    rank = op.rank(0)
    axis = op.attr_int("axis", 1)
    return axis % rank if rank else 0


def _block(op: Op) -> int:
    """The length of a block along the axis; 0 for one scale per tensor or per element of the axis."""
    return op.attr_int("block_size", 0)


@lowers("QuantizeLinear", since=10, seen=28)
def quantize_linear(op: Op) -> Lowered:
    """`saturate(round(x / scale) + zero_point)`, or a cast to an 8-bit float."""
    target = ir.DataType(op.attr_int("output_dtype", 0) or int(ir.DataType.UINT8))
    target = op.dtype(2) if op.has(2) else target
    dtype = _known_dtype(op, target)
    stated = op.attr_int("precision", 0)
    precision = _known_dtype(op, ir.DataType(stated) if stated else op.dtype(1))
    if dtype.is_floating_point:
        return _float_levels(op, target, dtype, precision)
    limits = _limits(target, dtype)
    return op.call(quantize, op.x(0), op.x(1), _optional(op, 2), _axis(op), _block(op), precision, dtype, limits)


def _limits(target: ir.DataType, dtype: torch.dtype) -> tuple[int, int]:
    """The smallest and the largest number of an integer dtype."""
    if target not in NARROW_INTEGERS:
        return torch.iinfo(dtype).min, torch.iinfo(dtype).max
    bits, signed = NARROW_INTEGERS[target]
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _float_levels(op: Op, target: ir.DataType, dtype: torch.dtype, precision: torch.dtype) -> fx.Node:
    """`x / scale + zero_point` as a float of 8 bits or fewer."""
    axis, block = _axis(op), _block(op)
    scale = op.call(spread, op.x(1), op.x(0), axis, block)
    ratio = op.call(operator.truediv, op.method("to", op.x(0), precision), op.method("to", scale, precision))
    zero = op.constant(2)
    if op.has(2) and (zero is None or zero.astype(float).any()):
        shift = op.method("to", op.call(spread, op.x(2), op.x(0), axis, block), precision)
        ratio = op.call(operator.add, ratio, shift)
    if target in NARROW_FLOATS:
        return op.call(cast_to_narrow_float, ratio, *NARROW_FLOATS[target])
    if dtype.itemsize > 1:
        raise op.refuse(f"ONNX quantises to no {target.name}; re-export the model")
    return op.call(cast_to_float8, ratio, dtype, bool(op.attr_int("saturate", 1)))


@lowers("DequantizeLinear", since=10, seen=28)
def dequantize_linear(op: Op) -> Lowered:
    """`(x - zero_point) * scale`."""
    stated = op.attr_int("output_dtype", 0)
    dtype = _known_dtype(op, ir.DataType(stated) if stated else op.dtype(1))
    return op.call(dequantize, op.x(0), op.x(1), _optional(op, 2), _axis(op), _block(op), dtype)


@lowers("DynamicQuantizeLinear", since=11, seen=11)
def dynamic_quantize_linear(op: Op) -> Lowered:
    """Quantise to uint8 by the range of the tensor itself."""
    found = op.call(dynamic_quantize, op.x(0))
    return [op.call(operator.getitem, found, index) if op.uses_output(index) else None for index in range(3)]


@lowers("MatMulInteger", since=10, seen=10)
def matmul_integer(op: Op) -> Lowered:
    """Matrix product of integers, as int32."""
    return op.call(integer_matmul, op.x(0), op.x(1), _optional(op, 2), _optional(op, 3))


@lowers("QLinearMatMul", since=10, seen=21)
def qlinear_matmul(op: Op) -> Lowered:
    """Matrix product of quantised tensors, quantised again."""
    total = op.call(integer_matmul, op.x(0), op.x(3), op.x(2), op.x(5))
    return op.call(requantize, total, op.x(1), op.x(4), op.x(6), op.x(7), -1)


def _convolution(op: Op, weight: int, zeros: tuple[int, int], bias: int) -> fx.Node:
    shape = op.shape(weight)
    if shape is None or len(shape) - 2 not in (1, 2, 3) or not all(isinstance(dim, int) for dim in shape[2:]):
        raise op.refuse("the kernel size is unknown; give the weight a fixed shape")
    window = window_of(op, [int(dim) for dim in shape[2:] if isinstance(dim, int)])
    if window.same:
        raise op.refuse("auto_pad on unknown sizes; re-export with explicit pads")
    arguments: list[Any] = [op.x(0), op.x(weight), *(_optional(op, index) for index in (*zeros, bias))]
    geometry = (window.stride, window.torch_pads, window.dilation, op.attr_int("group", 1))
    return op.call(integer_convolution, *arguments, *geometry)


@lowers("ConvInteger", since=10, seen=10)
def conv_integer(op: Op) -> Lowered:
    """Convolution of integers, as int32."""
    return _convolution(op, 1, (2, 3), 4)


@lowers("QLinearConv", since=10, seen=10)
def qlinear_conv(op: Op) -> Lowered:
    """Convolution of quantised tensors, quantised again."""
    total = _convolution(op, 3, (2, 5), 8)
    return op.call(requantize, total, op.x(1), op.x(4), op.x(6), op.x(7), 1)
