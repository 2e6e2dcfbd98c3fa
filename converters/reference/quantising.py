"""DequantizeLinear below opset 19, which onnx's reference evaluator lacks; for what they have it means the same."""

from __future__ import annotations

from typing import Any

from onnx.reference.ops.op_dequantize_linear import DequantizeLinear_23

from .operator_base import CorrectedOperator

__all__ = ["DequantizeLinear"]


class DequantizeLinear(CorrectedOperator):
    """The evaluator's own of opset 23, for every opset."""

    def _run(self, *inputs: Any, **attributes: Any) -> Any:
        return self.by(DequantizeLinear_23, *inputs, **attributes)
