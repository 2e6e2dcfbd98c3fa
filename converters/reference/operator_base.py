"""What a corrected operator needs to know of its node: the opset, and which attributes are stated."""

from __future__ import annotations

from typing import Any

from onnx.reference.op_run import OpRun

__all__ = ["CorrectedOperator"]


class CorrectedOperator(OpRun):
    """An operator of ONNX's own domain, for every opset."""

    op_domain = ""

    @property
    def opset(self) -> int:
        """The opset of the graph or function that the node is in."""
        return max(int(self.run_params["opsets"].get(domain, 0)) for domain in ("", "ai.onnx"))

    def states(self, attribute: str) -> bool:
        """Whether the node has the attribute; the evaluator fills in the default of the newest opset otherwise."""
        return any(entry.name == attribute for entry in self.onnx_node.attribute)

    def by(self, original: type[OpRun], *inputs: Any, **attributes: Any) -> Any:
        """The outputs that the evaluator's own operator gives."""
        operator: Any = original(self.onnx_node, self.run_params)
        return operator._run(*inputs, **attributes)
