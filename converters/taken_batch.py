"""Which batches a module takes that was made from a file with one batch baked in: found out by running it at another.

Most files keep their batch only in the shapes they state, and their modules take any. Where a constant of the graph
holds it (a class token expanded to N rows), the module takes that batch only; `set_batch` can rewrite such a file.

`only_batch` compares numbers with the file. `runnable_batch` has no file and computes shapes only, in milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from .parity import measure_parity
from .probing import probe_inputs
from .record import TensorSpec
from .runners import OnnxRunner

__all__ = ["only_batch", "runnable_batch"]


def only_batch(module: fx.GraphModule, reference: OnnxRunner, tolerance: float) -> int | None:
    """The only batch `module` takes; None when it gives the file's numbers at another one too.

    `reference` is the file `module` was made from. At one image more than the file takes, the first and the last
    rows of every output must be what the file gives for those images.
    """
    size = reference.batch
    if size is None or any(not spec.shape or spec.shape[0] != size for spec in reference.inputs):
        return size
    record = module.meta["rtool"]
    chunks = [probe_inputs(reference.inputs, size, seed=seed) for seed in (0, 1)]
    arrays = [np.concatenate([first[:1], second]) for first, second in zip(*chunks, strict=True)]
    names = [spec.name for spec in reference.inputs]
    tensors = [torch.from_numpy(arrays[names.index(spec.name)]) for spec in record.inputs]
    try:
        with torch.no_grad():
            # Not `module(...)`: torch.fx prints the generated code on the terminal when that raises.
            result = module.forward(*tensors)
    except (RuntimeError, IndexError):
        return size
    outputs = [tensor.numpy() for tensor in (result if isinstance(result, tuple | list) else (result,))]
    if any(output.shape[:1] != (size + 1,) for output in outputs):
        return size
    for rows in (slice(0, size), slice(1, size + 1)):
        expected = reference.run(*(array[rows] for array in arrays))
        if not measure_parity(expected, [output[rows] for output in outputs]).max_rel <= tolerance:
            return size
    return None


def runnable_batch(module: fx.GraphModule, inputs: Sequence[TensorSpec]) -> int | None:
    """The only batch a converted module runs at; None when it runs at others, or when shapes alone do not tell."""
    sizes = {spec.shape[0] if spec.shape else None for spec in inputs}
    size = sizes.pop() if len(sizes) == 1 else None
    if not isinstance(size, int) or not _has_shapes_at(module, inputs, size):
        return None
    return None if _has_shapes_at(module, inputs, size + 1) else size


def _has_shapes_at(module: fx.GraphModule, inputs: Sequence[TensorSpec], batch: int) -> bool:
    """Whether the module goes through on tensors without data."""
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
    except (RuntimeError, IndexError):
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
