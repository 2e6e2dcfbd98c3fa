"""Run the module of an export and its source, and fold BatchNorm in a copy of the module."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from numpy.typing import NDArray
from torch import fx, nn

from ...errors import InputError
from ..batchnorm.fold import FoldReport, fold_batchnorm
from ..runtime.double_precision import exact_outputs
from ..runtime.parity import measure_parity
from ..runtime.reference_runner import open_onnx
from ..runtime.runners import TorchRunner, run_in_batches
from .origin import PROBES, ExportOrigin
from .step_log import StepLog, typed

__all__ = ["exact_module_outputs", "folded", "module_outputs", "source_error"]


def module_outputs(
    origin: ExportOrigin, module: nn.Module, arrays: tuple[NDArray[Any], ...], *, any_batch: bool = False
) -> tuple[NDArray[Any], ...]:
    """The outputs of `module` at the batch of the source; with `any_batch`, at any that it supports itself."""
    batch = origin.batch if any_batch else origin.measured_batch
    return run_in_batches(TorchRunner(module, name=origin.name, batch=batch), arrays, PROBES)


def exact_module_outputs(
    origin: ExportOrigin, module: nn.Module, arrays: tuple[NDArray[Any], ...]
) -> tuple[NDArray[Any], ...] | None:
    """`module_outputs` in float64; None where they cannot be computed."""
    runner = TorchRunner(module, name=origin.name, batch=origin.measured_batch)
    return exact_outputs(runner, arrays, batch=PROBES)


def source_error(origin: ExportOrigin, arrays: tuple[NDArray[Any], ...]) -> float:
    """How far what ONNX Runtime gives for the source graph is from float64, relative to the largest output.

    0 where there is no source, or float64 cannot be had.
    """
    if origin.graph is None:
        return 0.0
    runner = open_onnx(origin.graph, name=origin.name, exact=True)
    runner.batch = runner.batch or origin.batch
    inputs = typed(runner, arrays)
    outputs = run_in_batches(runner, inputs, PROBES)
    exact = exact_outputs(runner, inputs, batch=PROBES)
    return 0.0 if exact is None else measure_parity(exact, outputs).max_rel


def folded(
    origin: ExportOrigin, log: StepLog, tolerance: float, *, padded: bool
) -> tuple[nn.Module, FoldReport | None]:
    """A copy of the module with BatchNorm folded, measured; the module itself where fx cannot trace it.

    Raises:
        GateError: it computes something else.
        InputError: `padded` for a module that fx cannot trace.
    """
    traced = _traced(origin.module)
    if traced is None:
        if padded:
            raise InputError("export: --fold-padded needs a module torch.fx can trace; export without it")
        return origin.module, None
    folds = fold_batchnorm(traced, padded=padded)
    detail = f"{len(folds.folded)} BatchNorms folded, {len(folds.kept)} kept"
    outputs = module_outputs(origin, traced, log.inputs)
    exact = partial(exact_module_outputs, origin, traced, log.inputs)
    log.check("fold", outputs, max_rel=tolerance, detail=detail, exact=exact)
    return traced, folds


def _traced(module: nn.Module) -> fx.GraphModule | None:
    """A copy whose BatchNorms can be folded; None where fx cannot trace the module."""
    if isinstance(module, fx.GraphModule):
        return copy.deepcopy(module)
    try:
        return fx.symbolic_trace(copy.deepcopy(module))
    except Exception:  # tracing runs the module's own code on proxies; the exporter traces in another way
        return None
