"""The three forms of an ONNX value during lowering: a constant, known integers, or a tensor at run time.

Constants are in the IR (`ir.Value.const_value`). Integers computed from shapes are Python numbers and fx nodes
(`Integers`), so that a chain such as Shape-Gather-Unsqueeze-Concat-Reshape never becomes tensor arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.tensor_adapters import TorchTensor
from torch import fx

from ...errors import InputError
from ..files.file_tensor import FileTensor
from ..records.node_facts import facts_of

__all__ = [
    "NARROW_FLOATS",
    "NARROW_INTEGERS",
    "Dim",
    "Integers",
    "dims_of",
    "is_widened",
    "onnx_dtype",
    "stored_tensor",
    "symbol_of",
    "torch_dtype",
    "torch_tensor",
    "without_kernels",
]

Dim = int | str | None
"""A dimension: a number, a symbol (equal symbols mean equal sizes), or None when unknown."""


@dataclass(frozen=True)
class Integers:
    """An integer tensor of rank 0 or 1 whose elements are known; an fx node stands for a number at run time."""

    items: tuple[int | fx.Node, ...]
    scalar: bool = False
    boolean: bool = False
    """Whether the items are truth values, 0 or 1."""

    @property
    def static(self) -> NDArray[Any] | None:
        """The numbers as an array, if all are known at conversion; else None."""
        if not all(isinstance(item, int) for item in self.items):
            return None
        dtype = np.bool_ if self.boolean else np.int64
        return np.array(self.items[0] if self.scalar else self.items, dtype=dtype)


def symbol_of(item: int | fx.Node) -> Dim:
    """A number as a dimension: itself, the symbol of the dimension it was read from, or None."""
    if isinstance(item, int):
        return item
    return facts_of(item).symbol


def dims_of(value: ir.Value) -> tuple[Dim, ...] | None:
    """The inferred shape of a value; None when its rank is unknown."""
    if value.const_value is not None:
        return tuple(value.const_value.shape.numpy())
    if value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


_TORCH_DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.COMPLEX64: torch.complex64,
    ir.DataType.COMPLEX128: torch.complex128,
    ir.DataType.FLOAT8E4M3FN: torch.float8_e4m3fn,
    ir.DataType.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    ir.DataType.FLOAT8E5M2: torch.float8_e5m2,
    ir.DataType.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
}
NARROW_FLOATS = {
    ir.DataType.FLOAT4E2M1: (1, 0, 6.0),
    ir.DataType.FLOAT6E2M3: (3, 0, 7.5),
    ir.DataType.FLOAT6E3M2: (2, -2, 28.0),
}
"""Bits of the mantissa, exponent of the smallest normal number, largest number."""
NARROW_INTEGERS = {
    ir.DataType.INT2: (2, True),
    ir.DataType.UINT2: (2, False),
    ir.DataType.INT4: (4, True),
    ir.DataType.UINT4: (4, False),
}
"""Bits, and whether it is signed."""
_HELD_IN = {
    **{dtype: torch.int8 if signed else torch.uint8 for dtype, (_, signed) in NARROW_INTEGERS.items()},
    **dict.fromkeys(NARROW_FLOATS, torch.float32),
    ir.DataType.FLOAT8E8M0: torch.float32,
}
"""ONNX dtypes that torch has no kernels for, and the smallest torch dtype with kernels that has all their values."""
_BY_NUMPY_NAME = {dtype.numpy().name: dtype for dtype in (*_TORCH_DTYPES, *_HELD_IN)}
_BIT_VIEWS = {
    ir.DataType.BFLOAT16: np.int16,
    ir.DataType.FLOAT8E4M3FN: np.uint8,
    ir.DataType.FLOAT8E4M3FNUZ: np.uint8,
    ir.DataType.FLOAT8E5M2: np.uint8,
    ir.DataType.FLOAT8E5M2FNUZ: np.uint8,
}


def torch_dtype(dtype: ir.DataType | None) -> torch.dtype | None:
    """The torch dtype that holds the values of an ONNX dtype: its own, or for `is_widened` a wider one; None where
    there is none (strings).
    """
    return None if dtype is None else _TORCH_DTYPES.get(dtype) or _HELD_IN.get(dtype)


def is_widened(dtype: ir.DataType | None) -> bool:
    """Whether torch holds this dtype in a wider one: integers of 2 and 4 bits, floats of 4 and 6 bits, E8M0."""
    return dtype in _HELD_IN


def onnx_dtype(name: str) -> ir.DataType | None:
    """The ONNX dtype of a NumPy dtype by name, such as `TensorSpec` has it; None for a name that no dtype has."""
    return _BY_NUMPY_NAME.get(name)


def stored_tensor(tensor: torch.Tensor, dtype: ir.DataType, name: str) -> ir.TensorProtocol:
    """A tensor as ONNX stores it, bit for bit; the inverse of `torch_tensor`.

    Raises:
        InputError: it holds values that `dtype` does not have, or is of another dtype.
    """
    if not is_widened(dtype) or tensor.dtype != _HELD_IN[dtype]:
        converted = TorchTensor(tensor.contiguous(), name=name)
        if converted.dtype != dtype:
            raise InputError(f"weight '{name}': expected {dtype.name}, got {converted.dtype.name}")
        return converted
    wide = tensor.contiguous().numpy()
    with np.errstate(all="ignore"):
        narrow = wide.astype(dtype.numpy())
    if not np.array_equal(narrow.astype(wide.dtype), wide, equal_nan=wide.dtype.kind == "f"):
        raise InputError(f"weight '{name}': holds values that {dtype.name} does not have; round them first")
    return ir.Tensor(narrow, dtype=dtype, name=name)


def torch_tensor(tensor: ir.TensorProtocol) -> torch.Tensor:
    """A copy of a constant as a torch tensor with its own memory: bit for bit, or value by value where it is widened.

    Raises:
        TypeError: torch has no such dtype.
        InputError: the size of the data does not match the shape.
    """
    dtype = torch_dtype(tensor.dtype)
    if dtype is None:
        raise TypeError(f"torch has no dtype for {tensor.dtype.name}")
    if isinstance(tensor, FileTensor):
        unread = torch.empty(tensor.shape.numpy(), dtype=dtype)
        tensor.read_into(unread.numpy())
        return unread
    try:
        array = np.asarray(tensor.numpy())
    except ValueError as error:
        raise InputError(
            f"weight '{tensor.name}': its data does not fill its shape {list(tensor.shape.numpy())} ({error}); "
            "the file is truncated, fetch the whole model"
        ) from error
    bits = _BIT_VIEWS.get(tensor.dtype)
    shape = tensor.shape.numpy()
    result = torch.empty(shape, dtype=dtype)
    if math.prod(shape) and is_widened(tensor.dtype):
        np.copyto(result.numpy(), array.astype(result.numpy().dtype))
    elif math.prod(shape):
        source = np.ascontiguousarray(array)
        target = result if bits is None else result.view(torch.int16 if bits is np.int16 else torch.uint8)
        np.copyto(target.numpy(), source if bits is None else source.view(bits))
    return result


def without_kernels(dtype: ir.DataType) -> bool:
    """Whether torch can store this dtype but has no arithmetic kernels for it."""
    return dtype in (ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64)
