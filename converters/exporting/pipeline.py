"""`export`: any model reference becomes a deployable file, every step measured against the module it came from.

The steps are: fold BatchNorm; write the tensors back into the source graph (or, for a model without one or one
that is no longer what that graph computes, export anew); rewrite the batch; embed the preprocessing; simplify; narrow
to float16. Each result runs in ONNX Runtime on the same inputs, and an export that misses a tolerance writes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import fx, nn

from ...errors import InputError
from ..batchnorm.fold import FoldReport, KeptBatchNorm, fold_batchnorm
from ..batchnorm.kept_batchnorms import left_in_source, still_there
from ..files.atomic_file import check_file_output, serialised
from ..files.model_files import files_of
from ..passes.batch import Batch, changes_batch, set_batch
from ..passes.metadata_stripping import strip_metadata as without_traces
from ..passes.preprocessing_embedding import embed_preprocessing
from ..passes.simplification import Simplifier, simplify
from ..passes.targets import check_precision, find_target, pin_to_target
from ..precision.half import Float32Node, HalfType
from ..precision.int8_ranges import CalibrationMethod
from ..records.image_digest import describe_images
from ..records.preprocessing import Preprocessing
from ..runtime.runners import ALL, OnnxRunner, TorchRunner, batches_of, run_in_batches
from ..weights.writing_back import NoPlaceError, write_back
from .manifest import ExportResult, describe_export, manifest_path, metadata_of, write_export
from .options import Format, Precision, check_options, chosen_precision
from .origin import PROBES, ExportOrigin, measured_on, open_origin
from .reduced_precision import convert_to_half, convert_to_int8
from .reexport import OPSET, torch_to_onnx
from .step_log import StepLog, unit_length
from .torch_formats import Traced, trace_program, trace_script

__all__ = ["Format", "export"]

TOLERANCE = 1e-5
"""Largest relative error of a float32 step; ONNX Runtime and torch sum in different orders."""
_TRACED_BATCHES = (1, 2, 3, 5)
"""An exporter that bakes in the batch it traced is found out at one of these."""
_SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "pt2": ".pt2"}


def export(
    model: str | Path | nn.Module,
    output: str | Path | None = None,
    *,
    fp16: bool = False,
    bf16: bool = False,
    int8: bool = False,
    format: Format = "onnx",
    batch: Batch | None = None,
    embed_preprocessing: bool = False,
    fold_padded: bool = False,
    simplifier: Simplifier | Literal["auto", "none"] = "auto",
    keep_io_types: bool = True,
    keep_float32: Collection[str] = (),
    calibration: CalibrationMethod = "minmax",
    target: str | None = None,
    strip_metadata: bool = False,
    tolerance: float = TOLERANCE,
    min_cosine: float | None = None,
    inputs: NDArray[Any] | None = None,
    source: str | Path | onnx.ModelProto | None = None,
    preprocessing: Preprocessing | None = None,
    overwrite: bool = False,
) -> ExportResult:
    """Write `model` as one file, with a manifest beside it.

    Args:
        model: a model reference, or a module.
        output: the file to write; default is the model's (or the run's) name with the format's suffix, in the
            current folder.
        fp16: narrow to float16; nodes that overflow or lose too much go back to float32.
        bf16: the same with bfloat16, at opset 22.
        int8: quantise, calibrated on `inputs`, which must then be given.
        format: "onnx", "pt2" (torch.export) or "torchscript" (legacy).
        batch: the batch the file takes, or "dynamic"; None: the source's (dynamic for an export anew).
        embed_preprocessing: take uint8 pixels [N, H, W, C] and return L2-normalised embeddings.
        fold_padded: also fold BatchNorm before zero-padded layers, which leaves an offset; the graph is then no longer
            the source's, so it is exported anew.
        simplifier: "onnxslim", "onnxsim", "none", or "auto": onnxslim, unless the graph is the source's own.
        keep_io_types: with fp16 and bf16, keep float32 inputs and outputs.
        keep_float32: names of nodes that stay in float32, as from an earlier manifest.
        calibration: how int8 ranges come from what was seen.
        target: what the file must be readable by, see `targets`.
        strip_metadata: remove exporters' stack traces and file paths.
        tolerance: largest relative error of every float32 step.
        min_cosine: gate of the narrow step; default 0.9999 for fp16, 0.999 for bf16, 0.99 for int8.
        inputs: images to measure on, preprocessed float32 or uint8 pixels [N, H, W, C]; default are random ones.
        source: the ONNX model a converted module came from, where `model` is such a module. Where the module was
            edited and is no longer what that graph computes, it is exported anew, and the step says why.
        preprocessing: instead of the model's own.
        overwrite: replace a file that is already there.

    Raises:
        InputError: an argument or the model cannot be used.
        GateError: a step missed its tolerance; nothing is written.

    Examples:
        >>> result = rtool.export("model.onnx", "batch16.onnx", batch=16)
        >>> [step.name for step in result.steps], result.nodes
        (['write-back', 'batch', 'simplify'], 3)
    """
    precision = chosen_precision({"fp16": fp16, "bf16": bf16, "int8": int8})
    options = {
        "batch": batch,
        "embed-preprocessing": embed_preprocessing,
        "simplifier": simplifier,
        "target": target,
        "strip-metadata": strip_metadata,
        "half-io": not keep_io_types,
        "keep-float32": tuple(keep_float32),
        "calibration": calibration,
        "min-cosine": min_cosine,
    }
    check_options(format, precision, options, calibrated=inputs is not None)
    if target is not None:
        check_precision(target, precision)
    origin = open_origin(model, source, preprocessing)
    path = Path(output) if output is not None else Path(_stem(origin.name) + _suffix(format, precision))
    sources = files_of(origin.path) if origin.path is not None else ()
    for file in (path, manifest_path(path)):
        check_file_output(file, sources=sources)
        if file.exists() and not overwrite:
            raise InputError(f"{file}: already exists; choose another output or pass --overwrite")
    pixels, arrays = measured_on(origin, inputs)
    log = StepLog(arrays, _outputs(origin, origin.module, arrays))
    _refuse_non_finite(origin, log)
    measured = describe_images(pixels if pixels is not None else arrays, random=inputs is None)
    if format != "onnx":
        return _export_torch(origin, path, format, log, tolerance, measured, fold_padded=fold_padded)
    builder = _OnnxExport(origin, log, tolerance, measured)
    builder.make_graph(min(OPSET, find_target(target).opset) if target is not None else OPSET, fold_padded=fold_padded)
    if target is not None:
        pin_to_target(builder.model, target)  # refused before the slow steps, not behind them
    if batch is not None:
        builder.set_batch(batch)
    if embed_preprocessing:
        builder.embed(pixels)
    builder.simplify(simplifier)
    if precision == "int8":
        builder.reduce(precision, method=calibration, keep=keep_float32, min_cosine=min_cosine)
    elif precision is not None:
        builder.reduce(precision, keep_io_types=keep_io_types, keep=keep_float32, min_cosine=min_cosine)
    builder.finish(target=target, strip=strip_metadata)
    return builder.write(path)


class _OnnxExport:
    """The ONNX model as it goes through the steps."""

    def __init__(self, origin: ExportOrigin, log: StepLog, tolerance: float, measured: Mapping[str, Any]) -> None:
        self.origin, self.log, self.tolerance, self.measured = origin, log, tolerance, measured
        self.model = onnx.ModelProto()
        self.folds: FoldReport | None = None
        self.kept_batchnorms: tuple[KeptBatchNorm, ...] = ()
        self.kept: tuple[Float32Node, ...] = ()
        self.embedded = False
        self.untouched = False

    def make_graph(self, opset: int, *, fold_padded: bool) -> None:
        """Write-back where the topology stays the source graph's, else fold and export anew."""
        reason = self.origin.changed
        if self.origin.graph is not None and not fold_padded:
            try:
                self._write_back(self.origin.graph)
                return
            except NoPlaceError as error:
                reason = str(error)
        self._reexport(opset, reason, fold_padded=fold_padded)

    def _write_back(self, graph: onnx.ModelProto | Path) -> None:
        assert isinstance(self.origin.module, fx.GraphModule)
        self.model = write_back(self.origin.module, graph)
        self.untouched = True
        self.kept_batchnorms = left_in_source(self.origin.module)
        self.log.check_model("write-back", self.model, max_rel=self.tolerance, detail="into the source graph")

    def _reexport(self, opset: int, reason: str, *, fold_padded: bool) -> None:
        """`reason` is why the weights do not go back into the source graph; "" where there is none, or by request."""
        origin, batch = self.origin, self.origin.batch
        module, self.folds = _folded(origin, self.log, self.tolerance, padded=fold_padded)
        self.kept_batchnorms = self.folds.kept if self.folds is not None else ()
        example = [torch.from_numpy(array[: batch or 1] if array.ndim else array) for array in self.log.inputs]
        self.model = torch_to_onnx(
            module,
            example,
            opset=opset,
            dynamic_batch=batch is None,
            input_names=origin.input_names,
            output_names=origin.output_names(len(self.log.expected)),
        )
        detail = "torch.export, dynamic batch" if batch is None else f"torch.export, batch {batch}"
        detail += f"; not written back: {reason}" if reason else ""
        self.log.check_model("re-export", self.model, max_rel=self.tolerance, detail=detail)
        if batch is None:
            self.log.check_batches("re-export", self.model, _TRACED_BATCHES, max_rel=self.tolerance)

    def set_batch(self, batch: Batch) -> None:
        """Rewrite the batch."""
        try:
            rewritten = set_batch(self.model, batch, inputs=self.log.inputs)
        except InputError as error:
            raise InputError(f"{self.origin.name}: {error}") from error
        self.untouched &= not changes_batch(self.model, batch)
        self.model = rewritten
        self.log.check_model("batch", self.model, max_rel=self.tolerance, detail=str(batch))

    def embed(self, pixels: NDArray[np.uint8] | None) -> None:
        """Embed the preprocessing; from here on the model is measured on pixels."""
        preprocessing = self.origin.preprocessing
        if preprocessing is None:
            raise InputError(f"{self.origin.name}: its preprocessing is not known; state it with --preprocessing")
        if pixels is None:
            raise InputError("export: to embed the preprocessing, give inputs as uint8 pixels [N, H, W, C]")
        self.model = embed_preprocessing(self.model, preprocessing)
        self.untouched, self.embedded = False, True
        self.log.inputs = (pixels,)
        self.log.expected = unit_length(self.log.expected)
        detail = f"uint8 {preprocessing.height}x{preprocessing.width} in, unit length out"
        self.log.check_model("preprocessing", self.model, max_rel=self.tolerance, detail=detail)

    def simplify(self, method: Simplifier | Literal["auto", "none"]) -> None:
        """Simplify, unless the graph is the source's own and nobody asked."""
        if method == "none" or (method == "auto" and self.untouched):
            return
        inputs, _ = batches_of(OnnxRunner(self.model), self.log.inputs, ALL)[0]
        result = simplify(self.model, "onnxslim" if method == "auto" else method, inputs=inputs)
        self.model = result.model
        self.kept_batchnorms = still_there(self.kept_batchnorms, self.model)
        detail = f"{result.method}: {result.nodes_before} -> {result.nodes_after} nodes"
        if result.rolled_back:
            detail = f"rolled back ({result.rolled_back})"
        self.log.check_model("simplify", self.model, max_rel=self.tolerance, detail=detail)

    def reduce(self, precision: Precision, **options: Any) -> None:
        """Convert to 16 bits, or quantise to 8."""
        if precision == "int8":
            self.model, self.kept = convert_to_int8(self.model, self.log, **options)
        else:
            dtype: HalfType = "float16" if precision == "fp16" else "bfloat16"
            self.model, self.kept = convert_to_half(self.model, self.log, dtype=dtype, **options)

    def finish(self, *, target: str | None, strip: bool) -> None:
        """Pin to a target, and remove exporters' traces; neither touches the arithmetic."""
        if target is not None:
            self.model = pin_to_target(self.model, target)
        if strip:
            self.model = without_traces(self.model)

    def write(self, path: Path) -> ExportResult:
        """Write the file with its provenance, and the manifest."""
        preprocessing = None if self.embedded else self.origin.preprocessing
        result = describe_export(
            self.model,
            path,
            name=self.origin.name,
            record=self.origin.record,
            steps=tuple(self.log.steps),
            measured_on=self.measured,
            chain=self.origin.chain,
            folds=self.folds,
            kept_batchnorms=self.kept_batchnorms,
            kept=self.kept,
            preprocessing=preprocessing,
        )
        return write_export(result, serialised(self.model, str(path)))


def _refuse_non_finite(origin: ExportOrigin, log: StepLog) -> None:
    """NaN agrees with NaN in every comparison, so it is refused before the first."""
    if all(np.isfinite(output).all() for output in log.expected if output.dtype.kind == "f"):
        return
    bad = [name for name, tensor in origin.module.state_dict().items() if not bool(tensor.isfinite().all())]
    found = f"weight {bad[0]!r} (and {len(bad) - 1} more) holds NaN or infinity" if bad else "its weights are finite"
    raise InputError(f"{origin.name}: the module gives NaN or infinity on the measured inputs; {found}; train it anew")


def _outputs(
    origin: ExportOrigin, module: nn.Module, arrays: tuple[NDArray[Any], ...], *, anew: bool = False
) -> tuple[NDArray[Any], ...]:
    """What `module` gives, at the batch of the source; with `anew`, at any that it takes itself."""
    batch = origin.batch if anew else origin.measured_batch
    return run_in_batches(TorchRunner(module, name=origin.name, batch=batch), arrays, PROBES)


def _traced(module: nn.Module) -> fx.GraphModule | None:
    """A copy whose BatchNorms can be folded; None where fx cannot trace the module."""
    if isinstance(module, fx.GraphModule):
        return copy.deepcopy(module)
    try:
        return fx.symbolic_trace(copy.deepcopy(module))
    except Exception:  # tracing runs the module's own code on proxies; the exporter traces in another way
        return None


def _folded(
    origin: ExportOrigin, log: StepLog, tolerance: float, *, padded: bool
) -> tuple[nn.Module, FoldReport | None]:
    """A copy of the module with BatchNorm folded, measured; the module itself where fx cannot trace it."""
    traced = _traced(origin.module)
    if traced is None:
        if padded:
            raise InputError("export: --fold-padded needs a module torch.fx can trace; export without it")
        return origin.module, None
    folds = fold_batchnorm(traced, padded=padded)
    detail = f"{len(folds.folded)} BatchNorms folded, {len(folds.kept)} kept"
    log.check("fold", _outputs(origin, traced, log.inputs), max_rel=tolerance, detail=detail)
    return traced, folds


def _stem(name: str) -> str:
    """The model's name without the suffix of its file; names of runs may have dots."""
    return name.removesuffix(".onnx").removesuffix(".rtool") or "model"


def _suffix(format: Format, precision: Precision | None) -> str:
    return f"_{precision}{_SUFFIXES[format]}" if precision else _SUFFIXES[format]


def _export_torch(
    origin: ExportOrigin,
    path: Path,
    format: Format,
    log: StepLog,
    tolerance: float,
    measured: Mapping[str, Any],
    *,
    fold_padded: bool,
) -> ExportResult:
    """Fold, trace and save as a torch file."""
    module, folds = _folded(origin, log, tolerance, padded=fold_padded)
    trace = trace_program if format == "pt2" else trace_script
    traced: Traced = trace(module, [torch.from_numpy(array) for array in log.inputs], batch=origin.batch)
    taken = "dynamic batch" if origin.batch is None else f"batch {origin.batch}"
    detail = f"torch.export, {taken}" if format == "pt2" else "traced; TorchScript is legacy, prefer pt2"
    log.check(format, _outputs(origin, traced.reloaded(), log.inputs, anew=True), max_rel=tolerance, detail=detail)
    result = describe_export(
        None,
        path,
        name=origin.name,
        record=origin.record,
        steps=tuple(log.steps),
        measured_on=measured,
        chain=origin.chain,
        folds=folds,
        kept_batchnorms=folds.kept if folds is not None else (),
        kept=(),
        preprocessing=origin.preprocessing,
    )
    return write_export(result, traced.serialised(metadata_of(result)))
