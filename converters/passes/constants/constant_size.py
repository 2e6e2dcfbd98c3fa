"""Refuse constants of absurd size before they are computed.

A damaged dimension of a few bytes can ask for terabytes and would fill the memory. onnx infers the size of a node's
outputs from the shapes of its inputs and from the values of its small inputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ....errors import InputError

__all__ = ["refuse_absurd_size"]

_LARGEST = 1 << 29
"""Elements, 2 GiB in float32; no real weight is larger."""
_SMALL = 1 << 10
"""Elements; inputs up to this size may be shapes, so inference receives their values."""
_GROWING = frozenset(
    {
        *("ConstantOfShape", "Expand", "EyeLike", "OneHot", "Pad", "Range", "Resize", "Tile", "Upsample"),
        *("BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix", "Gemm", "MatMul", "Einsum"),
        *("ConvTranspose", "CenterCropPad", "GatherND", "Gather", "AffineGrid", "Col2Im", "DFT", "RoiAlign"),
        *("Conv", "ConvInteger", "QLinearConv", "AveragePool", "MaxPool", "LpPool"),  # by their padding
    }
)
"""Operators whose output may be far larger than their inputs; all others grow by broadcasting at most."""


def refuse_absurd_size(node: ir.Node, arrays: Sequence[NDArray[Any] | None], opsets: Mapping[str, int]) -> None:
    """Check the size of the outputs that `node` has for these inputs, without computing them.

    Raises:
        InputError: an output has over 2**29 elements (2 GiB in float32).
    """
    given = [array for array in arrays if array is not None]
    if node.op_type not in _GROWING and _broadcast_elements(given) <= _LARGEST:
        return
    elements = _inferred_elements(node, arrays, opsets)
    if elements is None and node.op_type not in _GROWING:
        elements = _broadcast_elements(given)
    if elements is not None and elements > _LARGEST:
        raise InputError(
            f"node '{node.name}' ({node.op_type}): asks for a constant of {elements:,} elements; a dimension is "
            "damaged or absurd, re-export the model"
        )


def _broadcast_elements(arrays: Sequence[NDArray[Any]]) -> int:
    """The number of elements that broadcasting these inputs against each other gives at most."""
    rank = max((array.ndim for array in arrays), default=0)
    shapes = [(1,) * (rank - array.ndim) + array.shape for array in arrays]
    return math.prod(max(sizes) for sizes in zip(*shapes, strict=True))


def _inferred_elements(node: ir.Node, arrays: Sequence[NDArray[Any] | None], opsets: Mapping[str, int]) -> int | None:
    """Elements of the largest output; None when onnx cannot infer it."""
    proto = ir.serde.serialize_node(node)
    names = [f"input_{index}" if array is not None else "" for index, array in enumerate(arrays)]
    del proto.input[:]
    proto.input.extend(names)
    types, data = {}, {}
    for name, array in zip(names, arrays, strict=True):
        if array is None:
            continue
        types[name] = onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        if array.size <= _SMALL:
            data[name] = onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)
    schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    try:
        inferred = onnx.shape_inference.infer_node_outputs(
            schema, proto, types, data, opset_imports=imports, ir_version=10
        )
    except (onnx.shape_inference.InferenceError, KeyError, RuntimeError, ValueError):
        return None
    shapes: list[list[int]] = [[dim.dim_value for dim in output.tensor_type.shape.dim] for output in inferred.values()]
    return max((math.prod(shape) for shape in shapes), default=0)
