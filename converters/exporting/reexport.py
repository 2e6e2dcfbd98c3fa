"""Export a torch module to ONNX through torch.export, for models that did not come from an ONNX file.

Traced at batch 2 (a batch of 1 would become fixed) with a dynamic batch, into one file, at an opset and IR version
that ONNX Runtime 1.19 and so Triton 24.10 can read.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx
import torch
from torch import Tensor, nn

from ...errors import InputError
from ..lowering.values import is_widened, onnx_dtype
from ..passes.interface_names import with_interface_names
from ..records.record import record_of
from ..runtime.eval_mode import in_eval_mode

__all__ = ["IR_VERSION", "OPSET", "torch_to_onnx"]

OPSET = 20
IR_VERSION = 10
_TRACED_BATCH = 2
_LOGGERS = ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript")


def torch_to_onnx(
    module: nn.Module,
    example: Tensor | Sequence[Tensor],
    *,
    opset: int = OPSET,
    ir_version: int = IR_VERSION,
    dynamic_batch: bool = True,
    input_names: Sequence[str] = ("images",),
    output_names: Sequence[str] = ("embedding",),
) -> onnx.ModelProto:
    """The function of `module` in eval mode as an ONNX model.

    Args:
        module: any module torch.export can trace; every layer is left in the mode it is in.
        example: one input [N, ...], or one per input; only shapes and types matter.
        opset: of the default domain; at most 20 is read by every supported Triton.
        ir_version: of the file.
        dynamic_batch: whether axis 0 is dynamic; else it is the example's.
        input_names: one per input.
        output_names: one per output.

    Raises:
        InputError: torch.export cannot trace the module, or an input or output is of a type torch does not have.
    """
    _refuse_widened(module)
    tensors = (example,) if isinstance(example, Tensor) else tuple(example)
    shapes = None
    if dynamic_batch:
        tensors = tuple(_at_batch(tensor, _TRACED_BATCH) for tensor in tensors)
        batch = torch.export.Dim("batch", min=1)
        shapes = tuple({0: batch} for _ in tensors)
    try:
        with in_eval_mode(module), _quietly(), torch.no_grad():
            program = torch.onnx.export(
                module,
                tensors,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=shapes,
                verbose=False,
                external_data=False,
            )
    except Exception as error:  # torch.export's failures have no common base
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{type(module).__name__}: torch.export cannot trace it ({reason}); "
            "see https://docs.pytorch.org/docs/stable/export.html for what it supports"
        ) from error
    assert program is not None
    model = with_interface_names(program.model_proto, input_names, output_names)
    model.ir_version = min(model.ir_version, ir_version)
    return model


def _refuse_widened(module: nn.Module) -> None:
    record = record_of(module)
    specs = () if record is None else (*record.inputs, *record.outputs)
    for spec in specs:
        if is_widened(onnx_dtype(spec.dtype)):
            raise InputError(
                f"{spec.name!r} is {spec.dtype}, which torch holds in a wider type, so a new graph would change it; "
                "write the weights into the source graph instead (`rtool.converters.write_back`)"
            )


def _at_batch(tensor: Tensor, batch: int) -> Tensor:
    return tensor[:1].expand(batch, *tensor.shape[1:]).contiguous()


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress the exporter's remarks on itself and on packages that are not installed."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
