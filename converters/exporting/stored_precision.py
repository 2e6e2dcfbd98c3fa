"""What an export does with a model that came in float16, in bfloat16 or quantised.

A file whose weights nobody trained is rewritten as it is stored: its own outputs are what every step must reproduce,
within what rounding allows (`half_bound`). A model that was upcast for training, or whose steps need the module, is
exported from float32 and goes back to the precision it came in, unless another one is asked for. A quantised file is
not: float weights would not fit the scales that it was calibrated for.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..operators.weight_refusals import FOR_EXPORT_TO_INT8
from ..precision.upcast import came_in
from ..runtime.double_precision import exact_outputs
from ..runtime.half_rounding import half_bound
from ..runtime.judging import unknown
from ..runtime.nonsense import find_nonsense, unreached_outputs
from ..runtime.probability_outputs import probability_outputs
from ..runtime.runners import OnnxRunner, run_in_batches
from ..weights.unfit_weights import refuse_quantised_weights
from .options import ExportOptions, Precision
from .origin import PROBES, ExportOrigin
from .step_log import StepLog, typed

__all__ = ["as_stored", "back_to_stored", "stored_log"]

_PRECISIONS: dict[str, Precision] = {"float16": "fp16", "bfloat16": "bf16"}


def as_stored(origin: ExportOrigin, options: ExportOptions) -> bool:
    """Whether the file is rewritten in its own precision: nothing that is asked for needs the float32 module."""
    needs_module = options.format != "onnx" or options.fold_padded or options.fp32 or options.precision is not None
    needs_module |= origin.weights is not None
    return origin.stored is not None and not needs_module


def back_to_stored(origin: ExportOrigin, options: ExportOptions) -> ExportOptions:
    """`options` with the precision that the model came in, where an ONNX export asks for none.

    Raises:
        InputError: the file is quantised.
    """
    if origin.stored is not None:
        refuse_quantised_weights(origin.stored.outline, origin.name, FOR_EXPORT_TO_INT8)
    before = came_in(origin.chain)
    if before is None or options.format != "onnx" or options.fp32 or options.precision is not None:
        return options
    wanted = {_PRECISIONS[before.dtype]: True}
    return replace(options, **wanted, keep_io_types=options.keep_io_types and not before.io)  # type: ignore[arg-type]


def stored_log(
    origin: ExportOrigin, arrays: tuple[NDArray[Any], ...], options: ExportOptions
) -> tuple[ExportOrigin, StepLog, ExportOptions]:
    """The log of a file that is rewritten as it is stored: expected is what it computes itself, as float32.

    Returns:
        `origin` without the upcast in its chain, the log, and `options` with the tolerance of the file's own rounding.

    Raises:
        InputError: the file gives NaN or infinity, or ONNX Runtime cannot run it.
    """
    assert origin.stored is not None
    runner = OnnxRunner(origin.stored, name=origin.name, exact=True)
    try:
        outputs = run_in_batches(runner, typed(runner, arrays), PROBES)
    except InputError as error:
        raise InputError(f"{error}; convert it with `rtool onnx2torch`, and export the bundle") from error
    nonsense = find_nonsense(
        lambda *rows: run_in_batches(runner, typed(runner, rows), PROBES),
        arrays,
        outputs,
        [spec.name for spec in runner.outputs],
        constant=unreached_outputs(origin.stored.outline.graph),
    )
    if nonsense:
        raise InputError(f"{origin.name}: no use of its outputs: {'; '.join(nonsense)}; export it in float32, --fp32")
    expected = tuple(output.astype(np.float32) if output.dtype == np.float16 else output for output in outputs)
    bound = half_bound(origin.stored.outline) or 0.0
    chain = tuple(link for link in origin.chain if link.step != "upcast")
    return (
        replace(origin, chain=chain, batch=runner.batch),
        StepLog(
            arrays,
            expected,
            exact=unknown if bound else partial(exact_outputs, runner, typed(runner, arrays), batch=PROBES),
            probabilities=probability_outputs(origin.stored.outline.graph),
        ),
        replace(options, tolerance=max(options.tolerance, bound)),
    )
