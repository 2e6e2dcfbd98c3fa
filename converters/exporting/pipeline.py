"""`export`: any model reference becomes a deployable file, every step measured against the module it came from.

The steps are: fold BatchNorm; write the tensors back into the source graph (or, for a model without one or one
that is no longer what that graph computes, re-export); rewrite the batch; embed the preprocessing; simplify; reduce the
precision. Each result runs in ONNX Runtime on the same inputs, and an export that misses a tolerance writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...errors import GateError, InputError, first_named
from ..bundles.open_batch import SettledBatch
from ..files.atomic_file import check_file_output, serialised
from ..files.model_bytes import TORCH_SUFFIXES
from ..files.model_file import ModelFile
from ..passes.batch import changes_batch
from ..preprocessing.decision import IN_GRAPH
from ..records.batch_proof import with_proof
from ..records.image_digest import describe_images
from ..records.interface import INTERFACE_KEY, interface_text
from ..records.record import TensorSpec
from ..runtime.batches.batch_proof import BatchFinding
from ..runtime.batches.file_batch import find_file_batch
from ..runtime.nonsense import find_nonsense, unreached_outputs
from ..runtime.probability_outputs import probability_outputs
from ..runtime.probes.open_sizes import describe_open_sizes
from ..runtime.reference_runner import WillingRunner
from ..runtime.runners import TorchRunner, batched_inputs
from .folding import exact_module_outputs, folded, module_outputs, source_error
from .manifest import ExportResult, describe_export, manifest_path, metadata_of, write_export
from .onnx_steps import (
    ExportedGraph,
    embed,
    finish,
    make_graph,
    reduce_precision,
    rewrite_batch,
    simplify_graph,
    state_outputs,
)
from .options import ExportKeywords, ExportOptions, Format, Precision
from .origin import ExportOrigin, measured_on, open_origin
from .step_log import StepLog
from .stored_precision import as_stored, back_to_stored, stored_log
from .torch_formats import Traced, trace_program, trace_script

__all__ = ["export"]

_SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "pt2": ".pt2"}
_FORMATS = {".onnx": "onnx"} | {name: "pt2" if name == ".pt2" else "torchscript" for name in TORCH_SUFFIXES}
"""Suffixes that readers go by, rtool among them; any other may be given to any format."""


def export(
    model: str | Path | nn.Module, output: str | Path | None = None, **options: Unpack[ExportKeywords]
) -> ExportResult:
    """Write `model` as one file, with a manifest beside it.

    Args:
        model: a model reference, or a module, which is not changed.
        output: the file to write; default is the model's (or the run's) name with the format's suffix, in the
            current folder.
        options: see `ExportOptions`.

    Raises:
        InputError: an argument or the model cannot be used, or its file changed while it was read.
        GateError: a step missed its tolerance; nothing is written.

    Examples:
        >>> result = rtool.export("model.onnx", "batch16.onnx", batch=16)
        >>> [step.name for step in result.steps], result.nodes
        (['write-back', 'batch', 'simplify'], 3)
    """
    chosen = ExportOptions(**options)
    origin = open_origin(model, chosen.source, chosen.preprocessing, chosen.weights)
    path = _output_path(origin, output, chosen)
    given = chosen.inputs(origin.required_preprocessing()) if callable(chosen.inputs) else chosen.inputs
    pixels, arrays = measured_on(origin, given, chosen.probes)
    if as_stored(origin, chosen):
        origin, log, chosen = stored_log(origin, arrays, chosen)
    else:
        chosen = back_to_stored(origin, chosen)
        log = _step_log(origin, arrays)
        _refuse_nonsense(origin, log)
    measured = describe_images(pixels if pixels is not None else arrays, random=given is None)
    sizes = describe_open_sizes(origin.inputs, origin.preprocessing, chosen.probes)
    if sizes and given is None:
        measured["open_sizes"] = sizes
    if chosen.format != "onnx":
        result = _export_torch(origin, path, log, measured, chosen)
    else:
        result = _export_onnx(origin, path, log, measured, pixels, chosen)
    return replace(result, weights=origin.weights)


def _step_log(origin: ExportOrigin, arrays: tuple[NDArray[Any], ...]) -> StepLog:
    """The log of an export that is measured on `arrays`."""
    return StepLog(
        arrays,
        module_outputs(origin, origin.module, arrays),
        batch=origin.batch,
        exact=partial(exact_module_outputs, origin, origin.module, arrays),
        source_error=cache(partial(source_error, origin, arrays)),
        probabilities=() if origin.graph is None else probability_outputs(origin.graph.outline.graph),
    )


def _output_path(origin: ExportOrigin, output: str | Path | None, options: ExportOptions) -> Path:
    """Where the file goes.

    Raises:
        InputError: it or its manifest is there already, cannot be written, or belongs to the source; its suffix is
            that of another format.
    """
    name = _stem(origin.name) + _suffix(options.format, options.precision)
    path = Path(output) if output is not None else Path(name)
    stated = _FORMATS.get(path.suffix, options.format)
    if stated != options.format:
        raise InputError(
            f"{path}: would hold {options.format}, and {path.suffix} is the suffix of {stated}; "
            f"pass --format {stated}, or name the file *{_SUFFIXES[options.format]}"
        )
    for file in (path, manifest_path(path)):
        check_file_output(file, sources=origin.files)
        if file.exists() and not options.overwrite:
            raise InputError(f"{file}: already exists; choose another output or pass --overwrite")
    return path


def _export_onnx(
    origin: ExportOrigin,
    path: Path,
    log: StepLog,
    measured: dict[str, Any],
    pixels: NDArray[np.uint8] | None,
    options: ExportOptions,
) -> ExportResult:
    """The steps of an ONNX file, each of which takes the graph that the one before returned."""
    graph = state_outputs(make_graph(origin, log, options), log)
    batch = options.batch if options.batch is not None else origin.batch
    if batch is not None and (options.batch is not None or changes_batch(graph.model, batch)):
        graph = rewrite_batch(graph, origin, log, batch, options.tolerance)
    if options.embed_preprocessing:
        graph, log = embed(graph, origin, log, pixels, options.tolerance)
    graph = simplify_graph(graph, log, options.simplifier, options.tolerance)
    if options.precision is not None:
        graph = reduce_precision(graph, log, options.precision, options)
    graph = finish(graph, options)
    settled = _prove_batch(origin, graph, log)
    origin.check_unchanged()
    result = _describe(origin, path, log, measured, graph, settled)
    data = serialised(graph.model, str(path))
    return write_export(result, data if settled.proof is None else with_proof(data, settled.proof))


def _prove_batch(origin: ExportOrigin, graph: ExportedGraph, log: StepLog) -> SettledBatch:
    """The proof that the exported graph takes an open batch, with the weights that it has now.

    Raises:
        GateError: a batch is not its images one by one.
    """
    file = ModelFile.in_memory(graph.model)
    try:
        runner = WillingRunner(file, name=origin.name)
    except InputError as error:  # a CPU has no bfloat16 kernels
        return SettledBatch(None, None, BatchFinding(reason=str(error)).describe())
    if runner.batch is not None:
        return SettledBatch(runner.batch, None, origin.batch_note)
    finding = find_file_batch(file, runner, log.inputs)
    if finding.is_wrong:
        way_out = "export the network again" if finding.right_at is None else f"use --batch {finding.right_at}"
        raise GateError(f"{origin.name}: the exported graph {finding.describe()}; nothing was written, {way_out}")
    return SettledBatch(None, finding.proof, finding.describe() or origin.batch_note)


def _export_torch(
    origin: ExportOrigin, path: Path, log: StepLog, measured: dict[str, Any], options: ExportOptions
) -> ExportResult:
    """Fold, trace and save as a torch file."""
    module, folds = folded(origin, log, options.tolerance, padded=options.fold_padded)
    trace = trace_program if options.format == "pt2" else trace_script
    batched = batched_inputs(TorchRunner(module, inputs=origin.inputs, name=origin.name), log.inputs)
    traced: Traced = trace(module, [torch.from_numpy(array) for array in log.inputs], batched, batch=origin.batch)
    batch = "dynamic batch" if origin.batch is None else f"batch {origin.batch}"
    detail = f"torch.export, {batch}" if options.format == "pt2" else "traced; TorchScript is legacy, prefer pt2"
    fixed = describe_open_sizes(origin.inputs, origin.preprocessing, options.probes)
    detail += f"; open sizes are now fixed: {fixed}" if fixed else ""
    outputs = module_outputs(origin, traced.reloaded(), log.inputs, any_batch=True)
    log.check(options.format, outputs, max_rel=options.tolerance, detail=detail)
    origin.check_unchanged()
    kept = folds.kept if folds is not None else ()
    graph, settled = ExportedGraph(None, folds=folds, kept_batchnorms=kept), SettledBatch(None, None, origin.batch_note)
    result = _describe(origin, path, log, measured, graph, settled)
    stated = interface_text(*_interface(origin, log, batched))
    return write_export(result, traced.serialised({**metadata_of(result), INTERFACE_KEY: stated}))


def _interface(
    origin: ExportOrigin, log: StepLog, batched: Sequence[bool]
) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Inputs and outputs of a torch file: dtypes and sizes as measured, with the batch that the module supports."""
    first: int | str = "batch" if origin.batch is None else origin.batch

    def spec(name: str, array: NDArray[Any], has_batch: bool) -> TensorSpec:
        return TensorSpec(name, array.dtype.name, (first, *array.shape[1:]) if has_batch else array.shape)

    names = origin.output_names(len(log.expected))
    inputs = [spec(*each) for each in zip(origin.input_names, log.inputs, batched, strict=True)]
    return inputs, [spec(n, array, array.ndim > 0) for n, array in zip(names, log.expected, strict=True)]


def _describe(
    origin: ExportOrigin,
    path: Path,
    log: StepLog,
    measured: dict[str, Any],
    graph: ExportedGraph,
    batch: SettledBatch,
) -> ExportResult:
    return describe_export(
        graph.exported,
        path,
        name=origin.name,
        record=origin.record,
        steps=tuple(log.steps),
        measured_on=measured,
        chain=origin.chain,
        folds=graph.folds,
        kept_batchnorms=graph.kept_batchnorms,
        float32_nodes=graph.float32_nodes,
        preprocessing=None if graph.embedded else origin.preprocessing,
        batch_proof=batch.proof,
        batch_note=batch.note,
        preprocessing_origin=origin.preprocessing_origin if not graph.embedded else IN_GRAPH,
    )


def _refuse_nonsense(origin: ExportOrigin, log: StepLog) -> None:
    """NaN agrees with NaN in every comparison, so it is refused before the first."""
    names = origin.output_names(len(log.expected))
    constant = unreached_outputs(origin.graph.outline.graph) if origin.graph is not None else ()

    def run(*rows: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        return module_outputs(origin, origin.module, rows)

    nonsense = find_nonsense(run, log.inputs, log.expected, names, constant=constant)
    if not nonsense:
        return
    bad = [name for name, tensor in origin.module.state_dict().items() if not bool(tensor.isfinite().all())]
    found = f"weight {first_named(bad)} holds NaN or infinity" if bad else "its weights are finite"
    raise InputError(f"{origin.name}: no use of the module's outputs: {'; '.join(nonsense)}; {found}; retrain it")


def _stem(name: str) -> str:
    """The model's name without the suffix of its file; names of runs may have dots."""
    return name.removesuffix(".onnx").removesuffix(".rtool") or "model"


def _suffix(format: Format, precision: Precision | None) -> str:
    return f"_{precision}{_SUFFIXES[format]}" if precision else _SUFFIXES[format]
