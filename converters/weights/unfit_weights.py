"""Refuse weights from which training cannot start: modules in 16-bit floats, and stored integers.

A file in 16 bits is upcast before (`precision.upcast`); a module in 16 bits rounds where its exporter chose. Trained
weights of full precision would not fit the scales of quantised ones.
"""

from __future__ import annotations

import onnx
import torch
from torch import nn

from ...errors import InputError

__all__ = ["refuse_half_weights", "refuse_quantised_weights"]


def refuse_half_weights(module: nn.Module, label: str, advice: str) -> None:
    """Refuse weights of 16 bits: torch and ONNX Runtime round between them in different places.

    Raises:
        InputError: naming the weight and its type, with `advice`.
    """
    for name, weight in module.named_parameters():
        if weight.dtype in (torch.float16, torch.bfloat16):
            raise InputError(f"{label}: weight {name!r} is {str(weight.dtype).removeprefix('torch.')}; {advice}")


def refuse_quantised_weights(proto: onnx.ModelProto, label: str, advice: str) -> None:
    """Refuse a graph that dequantises stored integers.

    Raises:
        InputError: naming such a weight, with `advice`.
    """
    stored = {tensor.name for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            raise InputError(f"{label}: is quantised (weight {node.input[0]!r} holds integers); {advice}")
