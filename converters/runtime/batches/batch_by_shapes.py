"""Find out from shapes alone, in milliseconds, whether a converted module supports only the batch its file states.

Most files state a fixed batch only in the shapes of their inputs, and the converted module supports any batch. Where
a constant of the graph holds the batch (a class token expanded to N rows), the module supports only that one;
`set_batch` can rewrite such a file. Where the file is available, `batch_by_numbers` compares outputs as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from ...records.record import TensorSpec
from ..runners import TORCH_REFUSALS

__all__ = ["fixed_batch_by_shapes"]


def fixed_batch_by_shapes(module: fx.GraphModule, inputs: Sequence[TensorSpec]) -> int | None:
    """The only batch that `module` supports; None when it supports others, or when shapes alone cannot decide."""
    sizes = {spec.shape[0] if spec.shape else None for spec in inputs}
    size = sizes.pop() if len(sizes) == 1 else None
    if not isinstance(size, int) or _has_shapes_at(module, inputs, size + 1):  # nearly every module does
        return None
    return size if _has_shapes_at(module, inputs, size) else None


def _has_shapes_at(module: fx.GraphModule, inputs: Sequence[TensorSpec], batch: int) -> bool:
    """Whether the module runs at `batch` on meta tensors (shapes without data)."""
    arguments = []
    for spec in inputs:
        sizes = [batch, *(size for size in spec.shape[1:] if isinstance(size, int))]
        dtype = getattr(torch, spec.dtype, None)
        if len(sizes) != len(spec.shape) or not isinstance(dtype, torch.dtype):
            return False
        arguments.append(torch.empty(sizes, dtype=dtype, device="meta"))
    weights = {f"inner.{name}": tensor.to("meta") for name, tensor in _tensors(module)}
    try:
        with torch.no_grad():
            torch.func.functional_call(_Plain(module), weights, tuple(arguments))
    except TORCH_REFUSALS:
        return False
    return True


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


class _Plain(nn.Module):
    """Calls `forward` directly: torch.fx prints the generated code on the terminal when a call raises."""

    def __init__(self, inner: fx.GraphModule) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *arguments: torch.Tensor) -> Any:
        return self.inner.forward(*arguments)
