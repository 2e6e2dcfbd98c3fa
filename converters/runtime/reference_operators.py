"""Operators that onnx's reference evaluator computes wrongly, computed by their definition in the standard.

`GlobalMaxPool` of onnx takes the maximum over as many axes as the input has spatial ones, beginning at that number:
right for images [N, C, H, W] only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

__all__ = ["CORRECTED"]


class GlobalMaxPool(OpRun):
    """The maximum over every axis after the second, which stay with size 1."""

    op_domain = ""

    def _run(self, x: NDArray[Any]) -> tuple[NDArray[Any]]:
        return (np.asarray(x.max(axis=tuple(range(2, x.ndim)), keepdims=True)),)


CORRECTED: tuple[type[OpRun], ...] = (GlobalMaxPool,)
"""For the argument `new_ops` of `ReferenceEvaluator`."""
