"""onnx's reference evaluator, right for every operator that is known to be wrong in it: the one place that makes it.

A survey of ONNX's node cases, and of every operator in the forms of opsets 7 to 21, against ONNX Runtime found what
`normalising`, `pooling`, `quantising` and `sampling` replace. What it lacks it refuses; that is
no wrong number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx.reference import ReferenceEvaluator

from .normalising import LRN, BatchNormalization, Hardmax, InstanceNormalization, LogSoftmax, LpNormalization, Softmax
from .pooling import GlobalMaxPool, MaxPool
from .quantising import DequantizeLinear
from .sampling import GridSample, Resize, Upsample

if TYPE_CHECKING:
    import onnx
    from onnx.reference.op_run import OpRun

__all__ = ["CORRECTED", "reference_evaluator"]

CORRECTED: tuple[type[OpRun], ...] = (
    *(BatchNormalization, Hardmax, InstanceNormalization, LogSoftmax, LpNormalization, LRN, Softmax),
    *(GlobalMaxPool, MaxPool, DequantizeLinear),
    *(GridSample, Resize, Upsample),
)
"""The operators that are replaced."""


def reference_evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    """An evaluator of `model`.

    Raises:
        Exception: of any type, where the evaluator cannot load the model.
    """
    return ReferenceEvaluator(model, new_ops=list(CORRECTED))
