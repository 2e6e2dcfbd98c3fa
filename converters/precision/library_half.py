"""Convert to float16 with Microsoft's onnxconverter-common, as `--fp16-converter onnxconverter-common` asks for.

1. The limits are those of float16 itself; by default the library clips at 1e4 without need.
2. It decides by a list of operators (its DEFAULT_OP_BLOCK_LIST) which nodes stay in float32, and places its own Casts.
3. What it returns must pass `onnx.checker`, as our own conversion must; what it raises is reported as its failure.

It is measured and searched like ours, see `half_search`; `benchmarks/export/half_converters.py` compares both.

Source: https://github.com/microsoft/onnxconverter-common, float16.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection

import numpy as np
import onnx
from onnx import numpy_helper

from ...errors import InputError
from .half import Float32Node, HalfModel

__all__ = ["convert_with_library"]

_LIBRARY = "onnxconverter-common"
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)


def convert_with_library(model: onnx.ModelProto, *, keep_io_types: bool, keep: Collection[str]) -> HalfModel:
    """Convert a copy of `model`, whose nodes have names, to float16.

    Args:
        model: a float32 model; not changed.
        keep_io_types: whether inputs and outputs of the graph stay float32.
        keep: names of nodes that stay in float32.

    Raises:
        InputError: the library fails, or what it makes is not a valid model.
    """
    from onnxconverter_common import float16

    work = onnx.ModelProto()
    work.CopyFrom(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of every weight that it moves to a limit; they are counted below
            converted = float16.convert_float_to_float16(
                work,
                min_positive_val=_SMALLEST,
                max_finite_val=_LARGEST,
                keep_io_types=keep_io_types,
                node_block_list=list(keep),
            )
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:  # the library reports what it cannot do with any type of error
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"float16: {_LIBRARY} fails on this model ({cause}); leave out --fp16-converter") from error
    blocked = frozenset(float16.DEFAULT_OP_BLOCK_LIST)
    kept = frozenset(keep)
    nodes = [node for node in model.graph.node if node.name in kept or node.op_type in blocked]
    reasons = {True: "named to stay in float32", False: f"{_LIBRARY} leaves this operator in float32"}
    return HalfModel(
        converted,
        tuple(Float32Node(node.name, node.op_type, reasons[node.name in kept]) for node in nodes),
        casts=_casts(converted) - _casts(model),
        flushed=_flushed(model, converted),
        returned=tuple(node.name for node in nodes if node.name in kept and node.op_type not in blocked),
    )


def _casts(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Cast" for node in model.graph.node)


def _flushed(model: onnx.ModelProto, converted: onnx.ModelProto) -> int:
    """Weights that became zero."""
    zeros = {tensor.name: int((numpy_helper.to_array(tensor) == 0).sum()) for tensor in converted.graph.initializer}
    return sum(
        max(zeros.get(tensor.name, 0) - int((numpy_helper.to_array(tensor) == 0).sum()), 0)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    )
