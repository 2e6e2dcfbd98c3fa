"""The element types of ONNX tensors by number: names and widths, without onnx-ir, whose import takes half a second.

Source: onnx.proto, TensorProto.DataType; the names of small floats are those of `ml_dtypes`.
"""

from __future__ import annotations

import onnx

__all__ = ["FLOATS", "INTEGERS", "bits_of", "name_of", "numpy_name_of"]

_TYPES: dict[str, tuple[int, str]] = {
    "UNDEFINED": (0, "undefined"),
    "STRING": (0, "object"),
    "BOOL": (8, "bool"),
    "COMPLEX64": (64, "complex64"),
    "COMPLEX128": (128, "complex128"),
    "DOUBLE": (64, "float64"),
    "FLOAT": (32, "float32"),
    "FLOAT16": (16, "float16"),
    "BFLOAT16": (16, "bfloat16"),
    "FLOAT8E4M3FN": (8, "float8_e4m3fn"),
    "FLOAT8E4M3FNUZ": (8, "float8_e4m3fnuz"),
    "FLOAT8E5M2": (8, "float8_e5m2"),
    "FLOAT8E5M2FNUZ": (8, "float8_e5m2fnuz"),
    "FLOAT8E8M0": (8, "float8_e8m0fnu"),
    "FLOAT6E2M3": (6, "float6_e2m3fn"),
    "FLOAT6E3M2": (6, "float6_e3m2fn"),
    "FLOAT4E2M1": (4, "float4_e2m1fn"),
    **{f"{sign}INT{bits}": (bits, f"{sign.lower()}int{bits}") for sign in ("", "U") for bits in (2, 4, 8, 16, 32, 64)},
}
"""Name in the specification -> bits of one element, and NumPy's name."""
FLOATS = frozenset(number for name, number in onnx.TensorProto.DataType.items() if "FLOAT" in name or name == "DOUBLE")
"""Numbers of the floating-point types, 4 bits to 64."""
INTEGERS = frozenset(number for name, number in onnx.TensorProto.DataType.items() if "INT" in name)
"""Numbers of the integer types; BOOL is none."""


def name_of(data_type: int) -> str:
    """`FLOAT` for 1; the specification's own names.

    Raises:
        ValueError: the specification has no such type.
    """
    return str(onnx.TensorProto.DataType.Name(data_type))


def bits_of(data_type: int) -> int:
    """Bits of one element; 0 for UNDEFINED and STRING, which have none.

    Raises:
        ValueError: the specification has no such type.
    """
    return _TYPES[name_of(data_type)][0]


def numpy_name_of(data_type: int) -> str:
    """`float32` for 1: NumPy's name of the type, or that of `ml_dtypes`.

    Raises:
        ValueError: the specification has no such type.
    """
    return _TYPES[name_of(data_type)][1]
