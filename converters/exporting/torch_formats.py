"""The two torch file formats: exported programs (.pt2) and TorchScript (.pt, legacy), both traced.

Both store metadata as files inside the archive, one per key; `reference` reads them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ...errors import InputError
from ..runtime.eval_mode import in_eval_mode
from ..runtime.runners import TORCH_REFUSALS

__all__ = ["Traced", "TracedProgram", "TracedScript", "trace_program", "trace_script"]


class Traced(Protocol):
    """A traced module that can be written and reloaded."""

    def serialised(self, metadata: Mapping[str, str]) -> bytes:
        """The bytes of the file."""

    def reloaded(self) -> nn.Module:
        """The module that those bytes load to."""


class TracedProgram:
    """A module traced by torch.export."""

    def __init__(self, program: ExportedProgram) -> None:
        self._program = program

    def serialised(self, metadata: Mapping[str, str]) -> bytes:
        """The bytes of a .pt2."""
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(self._program, file, extra_files=dict(metadata))
        return file.getvalue()

    def reloaded(self) -> nn.Module:
        """The module that those bytes load to."""
        return torch.export.load(io.BytesIO(self.serialised({}))).module()


class TracedScript:
    """A module traced by TorchScript."""

    def __init__(self, traced: torch.jit.ScriptModule) -> None:
        self._traced = traced

    def serialised(self, metadata: Mapping[str, str]) -> bytes:
        """The bytes of a .pt."""
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(self._traced, file, _extra_files=dict(metadata))
        return file.getvalue()

    def reloaded(self) -> nn.Module:
        """The module that those bytes load to."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.load(io.BytesIO(self.serialised({})))  # type: ignore[no-untyped-call, no-any-return]


def trace_program(
    module: nn.Module, example: Sequence[Tensor], batched: Sequence[bool], *, batch: int | None = None
) -> TracedProgram:
    """Trace with a dynamic batch, or with the only `batch` the module supports.

    `batched` says which of the tensors in `example` have a row per image; the others keep their sizes.

    Raises:
        InputError: torch.export cannot trace the module.
    """
    shapes = None
    tensors = _rows(example, batched, batch)
    if batch is None:
        symbol = torch.export.Dim("batch", min=1)
        tensors = tuple(
            tensor[:1].expand(2, *tensor.shape[1:]).contiguous() if follows else tensor
            for tensor, follows in zip(example, batched, strict=True)
        )
        shapes = tuple({0: symbol} if follows else None for follows in batched)
    try:
        with in_eval_mode(module), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return TracedProgram(torch.export.export(module, tensors, dynamic_shapes=shapes))
    except Exception as error:  # torch.export's failures have no common base
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{type(module).__name__}: torch.export cannot trace it ({reason}); export to onnx") from error


def trace_script(
    module: nn.Module, example: Sequence[Tensor], batched: Sequence[bool], *, batch: int | None = None
) -> TracedScript:
    """Trace on `example`, or on as many rows of what is `batched` as the only `batch` the module supports.

    Raises:
        InputError: the module cannot be traced.
    """
    tensors = _rows(example, batched, batch)
    try:
        with in_eval_mode(module), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(module, tensors, check_trace=False)  # type: ignore[no-untyped-call]
            return TracedScript(traced)
    except TORCH_REFUSALS as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{type(module).__name__}: cannot be traced ({reason}); export to onnx or pt2") from error


def _rows(example: Sequence[Tensor], batched: Sequence[bool], batch: int | None) -> tuple[Tensor, ...]:
    return tuple(tensor[:batch] if follows else tensor for tensor, follows in zip(example, batched, strict=True))
