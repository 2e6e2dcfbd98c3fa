"""The steps of an ONNX export; each takes the graph that the previous step returned, and returns a measured one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import fx

from ...errors import InputError
from ..batchnorm.fold import FoldReport, KeptBatchNorm
from ..batchnorm.kept_batchnorms import left_in_source, still_there
from ..files.model_file import ModelFile
from ..passes.batch import Batch, set_batch
from ..passes.declared_outputs import state_computed_outputs
from ..passes.metadata_stripping import strip_metadata
from ..passes.preprocessing_embedding import embed_preprocessing
from ..passes.simplification import TOLERANCE as SIMPLIFIER_TOLERANCE
from ..passes.simplification import Simplifier, simplify
from ..passes.targets import find_target, pin_to_target
from ..precision.half import Float32Node
from ..precision.upcast import half_type
from ..runtime.batches.batch_proof import TOLERANCE as BATCH_TOLERANCE
from ..runtime.half_rounding import half_bound
from ..runtime.probes.open_sizes import describe_open_sizes, image_index
from ..runtime.reference_runner import open_onnx
from ..runtime.runners import ALL, batches_of
from ..weights.writing_back import NoPlaceError, write_back
from .folding import folded
from .options import ExportOptions, Precision
from .origin import ExportOrigin
from .reduced_precision import check_int8, convert_to_half, convert_to_int8
from .reexport import OPSET, torch_to_onnx
from .step_log import StepLog, typed, unit_length
from .stored_precision import as_stored

__all__ = [
    "ExportedGraph",
    "embed",
    "finish",
    "make_graph",
    "reduce_precision",
    "rewrite_batch",
    "simplify_graph",
    "state_outputs",
]

_TRACED_BATCHES = (1, 2, 3, 5)
"""Batches at which a re-export is measured, to detect a batch that tracing fixed."""


@dataclass(frozen=True)
class ExportedGraph:
    """The ONNX model after a step, and the results of the steps so far."""

    exported: onnx.ModelProto | None
    """None for a torch file."""
    untouched: bool = False
    """Whether its topology is still the source's own."""
    embedded: bool = False
    """Whether it takes pixels."""
    folds: FoldReport | None = None
    kept_batchnorms: tuple[KeptBatchNorm, ...] = ()
    float32_nodes: tuple[Float32Node, ...] = ()

    @property
    def model(self) -> onnx.ModelProto:
        """The ONNX model of an ONNX export."""
        assert self.exported is not None
        return self.exported


def make_graph(origin: ExportOrigin, log: StepLog, options: ExportOptions) -> ExportedGraph:
    """Write-back where the topology stays the source graph's, else fold and re-export.

    Raises:
        InputError: the target cannot read the graph; refused before the slow steps, not behind them.
        GateError: it computes something else than the module.
    """
    reason, graph = origin.changed, None
    if as_stored(origin, options):
        graph = _as_it_is(origin, log, options.tolerance)
    elif origin.graph is not None and not options.fold_padded:
        try:
            graph = _written_back(origin, origin.graph, log, options.tolerance)
        except NoPlaceError as error:
            reason = str(error)
    graph = graph or _reexported(origin, log, reason, options)
    if options.target is not None:
        pin_to_target(graph.model, options.target)
    return graph


def state_outputs(graph: ExportedGraph, log: StepLog) -> ExportedGraph:
    """The graph with the shapes of its outputs as they were computed; the last step says which changed."""
    changed = state_computed_outputs(graph.model, log.inputs, log.expected)
    if changed:
        last = log.steps[-1]
        log.steps[-1] = replace(last, detail="; ".join((last.detail, *changed)))
    return graph


def _as_it_is(origin: ExportOrigin, log: StepLog, tolerance: float) -> ExportedGraph:
    """The file in the precision that it is stored in."""
    assert origin.stored is not None
    assert isinstance(origin.module, fx.GraphModule)
    model, half = origin.stored.proto(), half_type(origin.stored.outline)
    log.check_model("source", model, max_rel=tolerance, detail=f"as it is stored, {half or 'quantised'}")
    return ExportedGraph(model, untouched=True, kept_batchnorms=left_in_source(origin.module))


def _written_back(origin: ExportOrigin, source: ModelFile, log: StepLog, tolerance: float) -> ExportedGraph:
    assert isinstance(origin.module, fx.GraphModule)
    model = write_back(origin.module, source)
    kept = left_in_source(origin.module)
    log.check_model("write-back", model, max_rel=tolerance, detail="into the source graph")
    return ExportedGraph(model, untouched=True, kept_batchnorms=kept)


def _reexported(origin: ExportOrigin, log: StepLog, reason: str, options: ExportOptions) -> ExportedGraph:
    """`reason` is why the weights do not go back into the source graph; "" where there is none, or by request."""
    batch = origin.batch
    opset = OPSET if options.target is None else min(OPSET, find_target(options.target).opset)
    module, folds = folded(origin, log, options.tolerance, padded=options.fold_padded)
    model = torch_to_onnx(
        module,
        [torch.from_numpy(array[: batch or 1] if array.ndim else array) for array in log.inputs],
        opset=opset,
        dynamic_batch=batch is None,
        input_names=origin.input_names,
        output_names=origin.output_names(len(log.expected)),
    )
    fixed = describe_open_sizes(origin.inputs, origin.preprocessing, options.probes)
    detail = "torch.export, dynamic batch" if batch is None else f"torch.export, batch {batch}"
    detail += f"; open sizes are now fixed: {fixed}" if fixed else ""
    detail += f"; not written back: {reason}" if reason else ""
    log.check_model("re-export", model, max_rel=options.tolerance, detail=detail)
    if batch is None:
        log.check_batches("re-export", model, _TRACED_BATCHES, max_rel=options.tolerance)
    return ExportedGraph(model, folds=folds, kept_batchnorms=folds.kept if folds is not None else ())


def rewrite_batch(
    graph: ExportedGraph, origin: ExportOrigin, log: StepLog, batch: Batch, tolerance: float
) -> ExportedGraph:
    """Rewrite the batch.

    Raises:
        InputError: the graph cannot be rewritten to it.
        GateError: it computes something else then.
    """
    try:
        rounding = max(BATCH_TOLERANCE, half_bound(graph.model) or 0.0)
        model = set_batch(graph.model, batch, inputs=log.inputs, tolerance=rounding)
    except InputError as error:
        raise InputError(f"{origin.name}: {error}") from error
    same = model.SerializeToString() == graph.model.SerializeToString()
    log.check_model("batch", model, max_rel=tolerance, detail=str(batch))
    return replace(graph, exported=model, untouched=graph.untouched and same)


def embed(
    graph: ExportedGraph, origin: ExportOrigin, log: StepLog, pixels: NDArray[np.uint8] | None, tolerance: float
) -> tuple[ExportedGraph, StepLog]:
    """Embed the preprocessing; from here on the model is measured on pixels uint8 [N, H, W, C].

    Raises:
        InputError: the preprocessing or the pixels are not known.
        GateError: the graph does not preprocess as `Preprocessing` does.
    """
    preprocessing = origin.required_preprocessing()
    image = image_index(origin.inputs) if len(origin.inputs) > 1 else 0
    if pixels is None or image is None:
        raise InputError("export: to embed the preprocessing, give inputs as uint8 pixels [N, H, W, C]")
    state_computed_outputs(graph.model, log.inputs, log.expected, undeclared=True)
    model = embed_preprocessing(graph.model, preprocessing)
    inputs = (*log.inputs[:image], pixels, *log.inputs[image + 1 :])
    on_pixels = StepLog(inputs, unit_length(log.expected), log.steps, exact=lambda: _unit_exact(log))
    detail = f"uint8 {preprocessing.height}x{preprocessing.width} in, unit length out"
    on_pixels.check_model("preprocessing", model, max_rel=tolerance, detail=detail)
    return replace(graph, exported=model, untouched=False, embedded=True), on_pixels


def _unit_exact(log: StepLog) -> tuple[NDArray[Any], ...] | None:
    exact = log.exact()
    return None if exact is None else unit_length(exact)


def simplify_graph(
    graph: ExportedGraph, log: StepLog, method: Simplifier | Literal["auto", "none"], tolerance: float
) -> ExportedGraph:
    """Simplify; with "auto" only a graph that is not the source's own.

    Raises:
        GateError: the simplified graph computes something else.
    """
    if method == "none" or (method == "auto" and graph.untouched):
        return graph
    runner = open_onnx(graph.model)
    inputs, _ = batches_of(runner, typed(runner, log.inputs), ALL)[0]
    rounding = max(SIMPLIFIER_TOLERANCE, half_bound(graph.model) or 0.0)
    result = simplify(graph.model, "onnxslim" if method == "auto" else method, inputs=inputs, tolerance=rounding)
    detail = f"{result.method}: {result.nodes_before} -> {result.nodes_after} nodes"
    if result.rolled_back:
        detail = f"rolled back ({result.rolled_back})"
    log.check_model("simplify", result.model, max_rel=tolerance, detail=detail)
    return replace(graph, exported=result.model, kept_batchnorms=still_there(graph.kept_batchnorms, result.model))


def reduce_precision(graph: ExportedGraph, log: StepLog, precision: Precision, options: ExportOptions) -> ExportedGraph:
    """Convert to 16 bits, or quantise to 8.

    Raises:
        GateError: the smallest cosine cannot be held.
        InputError: the graph cannot be converted, or a node that is to stay in float32 does not exist.
    """
    keep, gate = options.keep_float32, options.min_cosine
    nodes: tuple[Float32Node, ...] = ()
    if precision == "int8" and options.quantiser is not None:
        model = check_int8(graph.model, options.quantiser(graph.model), log, min_cosine=gate)
    elif precision == "int8":
        model, nodes = convert_to_int8(graph.model, log, method=options.calibration, keep=keep, min_cosine=gate)
    else:
        model, nodes = convert_to_half(
            graph.model,
            log,
            dtype="float16" if precision == "fp16" else "bfloat16",
            converter=options.fp16_converter,
            keep_io_types=options.keep_io_types,
            keep=keep,
            min_cosine=gate,
        )
    return replace(graph, exported=model, float32_nodes=nodes)


def finish(graph: ExportedGraph, options: ExportOptions) -> ExportedGraph:
    """Pin to a target, and remove exporters' traces; neither changes the arithmetic."""
    model = graph.model
    if options.target is not None:
        model = pin_to_target(model, options.target)
    return replace(graph, exported=strip_metadata(model) if options.strip_metadata else model)
