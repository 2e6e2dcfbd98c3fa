"""Quantised files are where an export ends: weights of full precision no longer fit their scales."""

from __future__ import annotations

import onnx

from ..errors import InputError

__all__ = ["refuse_quantised_weights"]


def refuse_quantised_weights(proto: onnx.ModelProto, label: str, advice: str) -> None:
    """Refuse a graph that dequantises stored integers.

    Raises:
        InputError: naming such a weight, with `advice`.
    """
    stored = {tensor.name for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            raise InputError(f"{label}: is quantised (weight {node.input[0]!r} holds integers); {advice}")
