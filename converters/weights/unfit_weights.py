"""Refuse weights from which training cannot start; see `operators.weight_refusals`.

A file in 16 bits is upcast before (`precision.upcast`); a module in 16 bits rounds where its exporter chose.
"""

from __future__ import annotations

import onnx
import torch
from torch import nn

from ..operators.weight_refusals import (
    double_weight_refused,
    half_weight_refused,
    quantised_weight_of,
    quantised_weight_refused,
)

__all__ = ["refuse_double_weights", "refuse_half_weights", "refuse_quantised_weights"]


def refuse_double_weights(module: nn.Module, label: str) -> None:
    """Refuse weights of 64 bits.

    Raises:
        InputError: naming the first.
    """
    for name, weight in module.named_parameters():
        if weight.dtype == torch.float64:
            raise double_weight_refused(label, name)


def refuse_half_weights(module: nn.Module, label: str, advice: str) -> None:
    """Refuse weights of 16 bits: torch and ONNX Runtime round between them in different places.

    Raises:
        InputError: naming the weight and its type, with `advice`.
    """
    for name, weight in module.named_parameters():
        if weight.dtype in (torch.float16, torch.bfloat16):
            raise half_weight_refused(label, name, str(weight.dtype).removeprefix("torch."), advice)


def refuse_quantised_weights(proto: onnx.ModelProto, label: str, advice: str) -> None:
    """Refuse a graph that dequantises stored integers.

    Raises:
        InputError: naming such a weight, with `advice`.
    """
    weight = quantised_weight_of(proto)
    if weight is not None:
        raise quantised_weight_refused(label, weight, advice)
