"""The dtype in which a backbone computes, by the configured precision and the device."""

from __future__ import annotations

import torch

__all__ = ["autocast_dtype"]


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype the backbone computes in, None for float32.

    Processors without float16 arithmetic emulate it and are many times slower than in float32; most of today's have
    bfloat16. So `half` is float16 on a GPU and bfloat16 on a processor.
    """
    if precision == "half":
        return torch.bfloat16 if device.type == "cpu" else torch.float16
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
