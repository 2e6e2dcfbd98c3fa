"""Let a layer with a restored BatchNorm load from a state_dict in which the layer has no bias.

Fusing gives every layer a bias; the original layer in front of a BatchNorm mostly had none. A missing bias is loaded
as zero, which is the same function, so a state_dict of the unfused original loads by name, strictly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["let_bias_be_missing"]


def let_bias_be_missing(module: nn.Module, layers: Iterable[str]) -> None:
    """Make `load_state_dict` of `module` load a missing bias of these layers (module paths) as zeros."""
    for path in layers:
        module.get_submodule(path).register_load_state_dict_pre_hook(_fill)  # type: ignore[no-untyped-call]


def _fill(layer: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    if isinstance(layer.bias, Tensor) and f"{prefix}weight" in state and f"{prefix}bias" not in state:
        state[f"{prefix}bias"] = torch.zeros_like(layer.bias)
