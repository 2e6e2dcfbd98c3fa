"""`onnx2torch`: an ONNX file becomes a bundle, checked against ONNX Runtime before anything is written."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, fx, nn

from ...errors import GateError, InputError
from ..batchnorm.restore import RestoreReport, restore_batchnorm, restored_link
from ..files.folders import check_output
from ..lowering.conversion import onnx_to_torch
from ..passes.batch import Batch, set_batch
from ..records.image_size import check_image_size
from ..records.preprocessing import Preprocessing
from ..records.preprocessing_guess import FoundPreprocessing, find_preprocessing
from ..records.provenance import ChainLink, to_json, tool_versions
from ..records.record import ConversionRecord, TensorSpec
from ..runtime.batch_by_numbers import only_batch
from ..runtime.parity import Parity, measure_parity
from ..runtime.runners import OnnxRunner, TorchRunner
from ..weights.state_dict_loading import WeightMatch, is_unfused, load_fused_weights, load_unfused_weights
from ..weights.unfit_weights import refuse_half_weights
from ..weights.writing_back import own_copy
from .bundle import is_bundle, save_bundle
from .codegen.check import written_module

__all__ = ["BatchParity", "OnnxToTorchResult", "onnx2torch", "preprocessing_of"]

TOLERANCE = 1e-5
"""Two correct float32 networks of a few hundred layers differ by less, in max relative error."""
_SMALL = 3_000_000
"""Parameters; 16 images of a network up to this size, as all OSNets are, take a second at most on one core."""


@dataclass(frozen=True)
class BatchParity:
    """The module against ONNX Runtime on one seeded random batch."""

    batch: int
    parity: Parity


@dataclass(frozen=True)
class OnnxToTorchResult:
    """A written bundle and how it was checked."""

    output: Path
    source: str
    sha256: str | None
    parameters: int
    trainable: int
    parity: tuple[BatchParity, ...]
    batch: int | None
    """The only batch the model takes; None when it takes any."""
    preprocessing: Preprocessing | None
    preprocessing_origin: str | None
    restored: RestoreReport | None
    weights: WeightMatch | None
    seconds: float


def onnx2torch(
    model: str | Path,
    output: str | Path | None = None,
    *,
    restore_bn: bool = False,
    calibrate: Iterable[Tensor] | None = None,
    calibration_state: str | Path | None = None,
    progress: Callable[[int], None] | None = None,
    weights: str | Path | None = None,
    allow_partial: bool = False,
    freeze: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    batch: Batch | None = None,
    overwrite: bool = False,
    tolerance: float = TOLERANCE,
) -> OnnxToTorchResult:
    """Convert an ONNX file into a bundle, by default `./NAME.rtool`.

    Args:
        model: the ONNX file; it is only read.
        output: the bundle folder to make.
        restore_bn: put BatchNorm back behind the layers an exporter fused it into.
        calibrate: preprocessed image batches [N, C, H, W] to measure their statistics on.
        calibration_state: file that keeps the statistics of an interrupted calibration, to go on from.
        progress: called with the number of calibration images seen.
        weights: a fused state_dict (`.pth`) to load into the module once it is converted and checked; with
            `restore_bn` also that of the unfused original, by name.
        allow_partial: accept `weights` that do not fill the module.
        freeze: patterns of parameter paths that shall not train.
        preprocessing: stored with the model; default is what the file says or its input shape suggests.
        batch: "dynamic" or a number: rewrite the graph to it first, proved as `set_batch` proves it. The bundle then
            holds the rewritten graph.
        overwrite: replace a bundle that is already at `output`.
        tolerance: largest relative error against ONNX Runtime, before and after restoring.

    Raises:
        InputError: the file is no usable ONNX model, `batch` cannot be proved, or `output` is taken or cannot be
            written.
        UnsupportedOperatorsError: nodes that cannot be converted exactly.
        GateError: the module does not reproduce the file; nothing is written.
    """
    start = time.perf_counter()
    path = Path(model)
    target = Path(output) if output is not None else Path(f"{path.stem}.rtool")
    if restore_bn and calibrate is None:
        raise InputError("--restore-bn measures activations: give images with --calibrate DATA")
    check_output(target, may_replace=is_bundle if overwrite else None)
    for file in (path, weights):
        if file is not None and Path(file).resolve().is_relative_to(target.resolve()):
            raise InputError(f"{file}: lies in {target}, which would be replaced; choose another output")
    graph = path if batch is None else _with_batch(path, batch)
    module = onnx_to_torch(graph, freeze=freeze)
    record: ConversionRecord = module.meta["rtool"]
    if batch is not None:
        record.source, record.digest = path.name, hashlib.sha256(path.read_bytes()).hexdigest()
    if not any(True for _ in module.parameters()):
        raise InputError(f"{path}: holds no float weights, so there is nothing to train; export the model with weights")
    check_image_size(str(path), record.inputs, preprocessing)
    refuse_half_weights(module, str(path), "convert the float32 model it was made from")
    _refuse_nan(module, path)
    reference = OnnxRunner(graph, name=path.name, exact=True)
    samples = _samples(reference, module)
    expected = [reference.run(*arrays) for _, arrays in samples]
    parity = _check(module, reference, samples, expected, tolerance, "converted")
    taken = only_batch(module, reference, tolerance)
    loaded = None
    links = [_converted_link(parity, batch)]
    unfused = weights is not None and restore_bn and is_unfused(module, weights)
    if weights is not None and not unfused:
        loaded = load_fused_weights(module, weights, allow_partial=allow_partial)
        expected = [_run(module, reference, arrays) for _, arrays in samples]
    report = None
    if restore_bn and calibrate is not None:
        report = restore_batchnorm(
            module, calibrate, state=None if calibration_state is None else Path(calibration_state), progress=progress
        )
        if not report.restored:
            reasons = sorted({entry.reason for entry in report.skipped})
            raise InputError(
                f"{path}: --restore-bn found no layer that lost a BatchNorm ({'; '.join(reasons) or 'no Conv'}); "
                "convert without it"
            )
        parity = _check(module, reference, samples, expected, tolerance, "with restored BatchNorm")
        links.append(restored_link(report, parity_max_rel=_errors(parity)))
    if weights is not None and unfused:
        loaded = load_unfused_weights(module, weights, allow_partial=allow_partial)
    if weights is not None and loaded is not None:
        _refuse_nan(module, Path(weights))
        detail = f"{len(loaded.matched)} tensors of {Path(weights).name}"
        sha256 = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
        links.append(ChainLink("weights", detail, {"file": Path(weights).name, "sha256": sha256, "unfused": unfused}))
    _check_written(module, reference, samples, tolerance)
    found = find_preprocessing(record.inputs, _metadata(reference))
    if record.preprocessing is not None and (found is None or found.is_guess):
        found = FoundPreprocessing(record.preprocessing, "the graph normalises raw pixels itself")
    chosen = preprocessing or (found.preprocessing if found else None)
    record.preprocessing = chosen
    record.chain = (*record.chain, *links)
    provenance = {"made_by": "onnx2torch", "chain": to_json(record.chain)}
    try:
        save_bundle(module, target, source=graph, preprocessing=chosen, overwrite=overwrite, provenance=provenance)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{target}: cannot be written ({reason}); nothing was left behind") from error
    return OnnxToTorchResult(
        output=target,
        source=record.source,
        sha256=record.sha256,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        trainable=sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad),
        parity=parity,
        batch=taken,
        preprocessing=chosen,
        preprocessing_origin="given" if preprocessing else found.origin if found else None,
        restored=report,
        weights=loaded,
        seconds=time.perf_counter() - start,
    )


def preprocessing_of(path: Path) -> Preprocessing:
    """What the ONNX file at `path` states or its input suggests.

    Raises:
        InputError: neither tells.
    """
    reference = OnnxRunner(path)
    found = find_preprocessing(reference.inputs, _metadata(reference))
    if found is None:
        raise InputError(f"{path}: its preprocessing is neither stated nor to be guessed; give --preprocessing")
    return found.preprocessing


def _refuse_nan(module: fx.GraphModule, path: Path) -> None:
    """A weight that is not a number trains to nothing, and kernels that drop it hide it from every comparison."""
    bad = [name for name, parameter in module.named_parameters() if bool(parameter.isnan().any())]
    if bad:
        raise InputError(f"{path}: weight {bad[0]!r} (and {len(bad) - 1} more) holds NaN; give a sound file")


Sample = tuple[int, list[NDArray[Any]]]


def _samples(reference: OnnxRunner, module: fx.GraphModule) -> list[Sample]:
    """Seeded inputs at batch 1, 2 and 3, of a small network also 16; or at the batch that is baked in."""
    is_small = sum(parameter.numel() for parameter in module.parameters()) <= _SMALL
    batches = (reference.batch,) if reference.batch else (1, 2, 3, 16) if is_small else (1, 2, 3)
    return [(batch, [_random(spec, batch) for spec in reference.inputs]) for batch in batches]


def _run(module: nn.Module, reference: OnnxRunner, arrays: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    """The module on the inputs of the file, of which it may not use all."""
    runner = TorchRunner(module)
    names = [spec.name for spec in reference.inputs]
    return runner.run(*(arrays[names.index(spec.name)] for spec in runner.inputs))


def _check(
    module: nn.Module,
    reference: OnnxRunner,
    samples: Sequence[Sample],
    expected: Sequence[tuple[NDArray[Any], ...]],
    tolerance: float,
    what: str,
) -> tuple[BatchParity, ...]:
    """Compare the module with what is expected of it.

    Raises:
        GateError: it differs by more than `tolerance`.
    """
    results = []
    for (batch, arrays), outputs in zip(samples, expected, strict=True):
        parity = measure_parity(outputs, _run(module, reference, arrays))
        if not parity.max_rel <= tolerance:
            raise GateError(
                f"{reference.name}: {what}, the module differs from ONNX Runtime by {parity.max_rel:.3g} relative at "
                f"batch {batch} (allowed {tolerance:g}); nothing was written, report this model"
            )
        results.append(BatchParity(batch, parity))
    return tuple(results)


def _check_written(module: fx.GraphModule, reference: OnnxRunner, samples: Sequence[Sample], tolerance: float) -> None:
    """Hold the text that becomes model.py, executed from memory, to the bound of the module it was written from.

    Raises:
        GateError: it is another function, or none.
    """
    outputs = [_run(module, reference, arrays) for _, arrays in samples]
    _check(written_module(module), reference, samples, outputs, tolerance, "written as model.py")


def _random(spec: TensorSpec, batch: int) -> NDArray[Any]:
    """Seeded input for one spec; open dimensions beyond the batch become 64."""
    shape = [dim if isinstance(dim, int) else (batch if axis == 0 else 64) for axis, dim in enumerate(spec.shape)]
    generator = np.random.default_rng(0)
    if spec.dtype.startswith("float"):
        return generator.standard_normal(shape).astype(spec.dtype)
    return generator.integers(0, 2, shape).astype(spec.dtype)


def _metadata(runner: OnnxRunner) -> Mapping[str, str]:
    return dict(runner.session.get_modelmeta().custom_metadata_map)


def _with_batch(path: Path, batch: Batch) -> onnx.ModelProto:
    """The file with another batch, its external data inside."""
    try:
        return set_batch(own_copy(path), batch)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _converted_link(parity: Sequence[BatchParity], batch: Batch | None) -> ChainLink:
    worst = max(entry.parity.max_rel for entry in parity)
    versions = tool_versions()
    facts: dict[str, Any] = {"parity_max_rel": _errors(parity), "versions": versions}
    if batch is not None:
        facts["batch"] = batch
    detail = f"by rtool {versions['rtool']}, max relative error {worst:.2g} against ONNX Runtime"
    return ChainLink("converted", detail, facts)


def _errors(parity: Sequence[BatchParity]) -> dict[str, float]:
    """Max relative error by batch."""
    return {str(entry.batch): entry.parity.max_rel for entry in parity}
