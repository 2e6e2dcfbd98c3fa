"""Files in half precision are where an export ends; nothing can be held to a tolerance that starts from one."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import InputError

__all__ = ["refuse_half_weights"]


def refuse_half_weights(module: nn.Module, label: str, advice: str) -> None:
    """Refuse weights of 16 bits: torch and ONNX Runtime round between them in different places.

    Raises:
        InputError: naming the weight and its type, with `advice`.
    """
    for name, weight in module.named_parameters():
        if weight.dtype in (torch.float16, torch.bfloat16):
            raise InputError(f"{label}: weight {name!r} is {str(weight.dtype).removeprefix('torch.')}; {advice}")
