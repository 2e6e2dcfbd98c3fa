"""Poolings that onnx's reference evaluator computes wrongly, by their definition in the standard.

1. GlobalMaxPool takes the maximum over as many axes as there are spatial ones, beginning at that number: right for
   images [N, C, H, W] only.
2. MaxPool with auto_pad SAME_LOWER rounds the output size down (the standard rounds it up, as for SAME_UPPER), with
   stride 1 takes `pads` for (top, bottom, left, right), and reads beyond a padded volume [N, C, D, H, W].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.ops.op_max_pool import MaxPool as OriginalMaxPool

from .operator_base import CorrectedOperator

__all__ = ["GlobalMaxPool", "MaxPool"]

Array = NDArray[Any]


class GlobalMaxPool(CorrectedOperator):
    """The maximum over every axis after the second, which stay with size 1."""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.asarray(x.max(axis=tuple(range(2, x.ndim)), keepdims=True)),)


class MaxPool(CorrectedOperator):
    """The maximum over windows of x [N, C, *sizes]; the evaluator's own where the indices are asked for too."""

    def _run(self, x: Array, auto_pad: str, ceil_mode: int, kernel_shape: list[int], **attributes: Any) -> Any:
        if sum(map(bool, self.onnx_node.output)) > 1:
            known = {"auto_pad": auto_pad, "ceil_mode": ceil_mode, "kernel_shape": kernel_shape}
            return self.by(OriginalMaxPool, x, **known, **attributes)
        rank = len(kernel_shape)
        steps, gaps = (attributes.get(name) or [1] * rank for name in ("strides", "dilations"))
        given = attributes.get("pads") or [0] * (2 * rank)
        around, places = [], []
        for axis, (size, kernel, step, gap) in enumerate(zip(x.shape[2:], kernel_shape, steps, gaps, strict=True)):
            extent = (kernel - 1) * gap + 1
            pads = _same_pads(size, extent, step, auto_pad) or (given[axis], given[rank + axis])
            count = (size + sum(pads) - extent + (step - 1 if ceil_mode else 0)) // step + 1
            if ceil_mode and (count - 1) * step >= size + pads[0]:
                count -= 1  # a window that begins in the padding behind
            missing = max((count - 1) * step + extent - size - sum(pads), 0)
            around.append((pads[0], pads[1] + missing))
            places.append(np.arange(count)[:, None] * step + np.arange(kernel) * gap)
        lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        result = np.pad(x, [(0, 0), (0, 0), *around], constant_values=lowest)
        for axis, place in enumerate(places, start=2):
            windows = np.take(result, place.reshape(-1), axis=axis)
            result = windows.reshape(*result.shape[:axis], *place.shape, *result.shape[axis + 1 :]).max(axis=axis + 1)
        return (result,)


def _same_pads(size: int, extent: int, step: int, auto_pad: str) -> tuple[int, int] | None:
    """Padding before and behind for SAME; None where the padding is stated, or is none."""
    if not auto_pad.startswith("SAME"):
        return (0, 0) if auto_pad == "VALID" else None
    total = max((-(-size // step) - 1) * step + extent - size, 0)
    small, large = total // 2, total - total // 2
    return (small, large) if auto_pad == "SAME_UPPER" else (large, small)
