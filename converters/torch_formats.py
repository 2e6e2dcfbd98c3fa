"""The two torch file formats: exported programs (.pt2) and TorchScript (.pt, legacy), both traced, both reloaded."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError

__all__ = ["save_exported_program", "save_torchscript"]


def save_exported_program(module: nn.Module, example: Sequence[Tensor]) -> tuple[bytes, nn.Module]:
    """The bytes of a .pt2 with a dynamic batch, and the module they load to.

    Raises:
        InputError: torch.export cannot trace the module.
    """
    batch = torch.export.Dim("batch", min=1)
    tensors = tuple(tensor[:1].expand(2, *tensor.shape[1:]).contiguous() for tensor in example)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module.eval(), tensors, dynamic_shapes=tuple({0: batch} for _ in tensors))
            file = io.BytesIO()
            torch.export.save(program, file)
            file.seek(0)
            return file.getvalue(), torch.export.load(file).module()
    except Exception as error:  # torch.export's failures have no common base
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{type(module).__name__}: torch.export cannot trace it ({reason}); export to onnx") from error


def save_torchscript(module: nn.Module, example: Sequence[Tensor]) -> tuple[bytes, nn.Module]:
    """The bytes of a traced TorchScript file, and the module they load to.

    Raises:
        InputError: the module cannot be traced.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(module.eval(), tuple(example), check_trace=False)  # type: ignore[no-untyped-call]
            file = io.BytesIO()
            torch.jit.save(traced, file)
            file.seek(0)
            return file.getvalue(), torch.jit.load(file)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{type(module).__name__}: cannot be traced ({reason}); export to onnx or pt2") from error
