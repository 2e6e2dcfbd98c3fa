"""Run the module of an export, and fold BatchNorm in a copy of it."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from numpy.typing import NDArray
from torch import fx, nn

from ...errors import InputError
from ..batchnorm.fold import FoldReport, fold_batchnorm
from ..runtime.double_precision import exact_outputs
from ..runtime.runners import TorchRunner, run_in_batches
from .origin import PROBES, ExportOrigin
from .step_log import StepLog

__all__ = ["exact_module_outputs", "folded", "module_outputs"]


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
