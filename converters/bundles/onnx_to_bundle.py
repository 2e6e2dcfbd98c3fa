"""`onnx2torch`: an ONNX file becomes a bundle, checked against ONNX Runtime before anything is written.

The steps: resolve (read the file, rewrite its batch), convert, restore (BatchNorm and weights), measure, save. Each
takes what the one before returned; the file is read once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from safetensors import SafetensorError
from torch import fx

from ...errors import InputError, first_named
from ..batchnorm.restore import RestoreReport, restore_batchnorm, restored_link
from ..files.folders import check_output
from ..files.model_file import ModelFile
from ..lowering.conversion import onnx_to_torch
from ..operators.weight_refusals import nothing_to_train
from ..passes.batch import Batch, set_batch
from ..precision.upcast import half_type, upcast
from ..preprocessing.decision import PreprocessingDecision, known_preprocessing
from ..preprocessing.evidence import evidence_of_file
from ..records.batch_proof import BatchProof
from ..records.image_size import check_image_size
from ..records.preprocessing import Preprocessing
from ..records.provenance import ChainLink, to_json, tool_versions
from ..records.record import require_record
from ..runtime.batches.batch_by_numbers import prove_other_batches
from ..runtime.batches.batch_proof import TOLERANCE, find_batch, held_batches
from ..runtime.batches.file_batch import sizes_to_prove
from ..runtime.half_rounding import half_bound
from ..runtime.probes.given_probes import with_probes
from ..runtime.probes.open_sizes import closed_sizes, describe_open_sizes
from ..runtime.probes.probing import probe_inputs
from ..runtime.runners import OnnxRunner, TorchRunner
from ..weights.state_dict_files import StateDictFile, read_state_dict
from ..weights.state_dict_loading import WeightMatch, is_unfused, load_state_dict_file
from .bundle import save_bundle
from .bundle_info import is_bundle
from .codegen.check import written_module
from .conversion_options import ConversionKeywords, ConversionOptions
from .conversion_reference import BatchParity, Reference
from .loaded_weights import refuse_broken_outputs, weights_link
from .open_batch import settled

__all__ = ["OnnxToTorchResult", "onnx2torch"]


@dataclass(frozen=True)
class OnnxToTorchResult:
    """A written bundle and how it was checked."""

    output: Path
    source: str
    sha256: str | None
    parameters: int
    trainable: int
    parity: tuple[BatchParity, ...]
    """The bundle's module against the source file in ONNX Runtime; where `weights` changed tensors, how far it is from
    the source now."""
    batch: int | None
    """The only batch the model supports; None when it supports any."""
    batch_proof: BatchProof | None
    """That any batch gives what its images give one by one; None where the batch is fixed."""
    batch_note: str
    """What is wrong with the open batch that the file declares; "" where nothing is."""
    preprocessing: Preprocessing | None
    preprocessing_origin: str
    """Where it comes from, or why it is not known."""
    restored: RestoreReport | None
    weights: WeightMatch | None
    seconds: float
    upcast_from: str | None = None
    """"float16" or "bfloat16", where the file stores its weights so and training starts from an upcast."""
    open_sizes: str = ""
    """At which sizes a file with open ones was measured, and why; "" where none is open."""


def onnx2torch(
    model: str | Path, output: str | Path | None = None, **options: Unpack[ConversionKeywords]
) -> OnnxToTorchResult:
    """Convert an ONNX file into a bundle.

    Args:
        model: the ONNX file; it is read once and never written.
        output: the bundle folder to make; by default `./NAME.rtool`.
        options: see `ConversionOptions`.

    Raises:
        InputError: the file is not a usable ONNX model, it changed while it was read, `batch` cannot be verified, or
            `output` exists or cannot be written.
        UnsupportedOperatorsError: nodes that cannot be converted exactly.
        GateError: the module does not reproduce the file; nothing is written.

    Examples:
        >>> result = rtool.onnx2torch("model.onnx")
        >>> str(result.output), result.parameters, max(entry.parity.max_rel for entry in result.parity) < 1e-5
        ('model.rtool', 112, True)
    """
    start, path, chosen = time.perf_counter(), Path(model), ConversionOptions(**options)
    target = Path(output) if output is not None else Path(f"{path.stem}.rtool")
    file = _resolve(path, target, chosen)
    half = half_type(file.outline)
    file = file if half is None else upcast(file)
    found = _decided(file, path, chosen)
    sized = None if isinstance(found, str) else found.preprocessing
    file, module, reference, note = _converted(file, path, chosen, sized)
    converted = reference.measure(module, chosen.tolerance, "converted")
    proof = reference.batch.proof or prove_other_batches(module, reference.runner, chosen.tolerance)
    restored = _restore(module, reference, file, found, chosen)
    parity = (restored.parity or converted) if restored.weights is None else reference.difference(module)
    restored.reference.ends().measure(written_module(module), chosen.tolerance, "written as model.py")
    record = require_record(module)
    record.preprocessing = sized
    links = (*([] if half is None else [half.link]), _converted_link(converted, chosen.batch), *restored.links)
    record.chain = (*record.chain, *links)
    if restored.weights is not None and proof is not None:  # the proof was of other weights
        proof, note = _proved_again(module, file)
    _save(module, file, target, chosen, proof)
    numbers = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return OnnxToTorchResult(
        output=target,
        source=record.source,
        sha256=record.sha256,
        parameters=sum(count for count, _ in numbers),
        trainable=sum(count for count, trains in numbers if trains),
        parity=parity,
        batch=None if proof is not None else reference.runner.batch,
        batch_proof=proof,
        batch_note=note,
        preprocessing=sized,
        preprocessing_origin=found if isinstance(found, str) else found.reason,
        restored=restored.report,
        weights=_measured(restored.weights, parity),
        seconds=time.perf_counter() - start,
        upcast_from=None if half is None else half.dtype,
        open_sizes=describe_open_sizes(reference.runner.inputs, sized, chosen.probes),
    )


def _resolve(path: Path, target: Path, options: ConversionOptions) -> ModelFile:
    """The file, read once, with the batch that is wanted.

    Raises:
        InputError: as `onnx2torch`.
    """
    check_output(target, may_replace=is_bundle if options.overwrite else None)
    read = ModelFile.read(path)
    for file in (*(read.files if target.exists() else (path,)), options.weights):
        if file is not None and Path(file).resolve().is_relative_to(target.resolve()):
            raise InputError(f"{file}: lies in {target}, which would be replaced; choose another output")
    if options.batch is None:
        return read
    return _rewritten(read, path, options.batch, options)


def _rewritten(file: ModelFile, path: Path, batch: Batch, options: ConversionOptions) -> ModelFile:
    """The file with another batch.

    Raises:
        InputError: it cannot be verified.
    """
    try:
        proto = file.proto()
        tolerance = max(TOLERANCE, half_bound(proto) or 0.0)
        found = _decided(file, path, options)
        sized = None if isinstance(found, str) else found.preprocessing
        specs = closed_sizes(OnnxRunner(file).inputs, sized, options.probes)
        inputs = with_probes(specs, probe_inputs(specs, 1), options.probes)
        return ModelFile.in_memory(set_batch(proto, batch, inputs=inputs, tolerance=tolerance), file.source)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _converted(
    file: ModelFile, path: Path, options: ConversionOptions, sized: Preprocessing | None
) -> tuple[ModelFile, fx.GraphModule, Reference, str]:
    """The file at the batch that it is right at, its module, its outputs, and what is wrong with an open batch."""
    module = _convert(file, path, options)
    reference = Reference.of(file, options.tolerance, preprocessing=sized, probes=options.probes)
    note = reference.batch.note
    if reference.batch.batch is not None and reference.runner.batch is None:  # it mixes the images of other batches
        file = _rewritten(file, path, reference.batch.batch, options)
        module = _convert(file, path, options)
        reference = Reference.of(file, options.tolerance, preprocessing=sized, probes=options.probes)
    return file, module, reference, note


def _decided(file: ModelFile, path: Path, options: ConversionOptions) -> PreprocessingDecision | str:
    """The preprocessing, or why it is not known."""
    return known_preprocessing(replace(evidence_of_file(file, options.probes), label=str(path)), options.preprocessing)


def _convert(file: ModelFile, path: Path, options: ConversionOptions) -> fx.GraphModule:
    """Convert the file.

    Raises:
        InputError: it has no weights that can be trained, or the preprocessing is of another size.
        UnsupportedOperatorsError: nodes that cannot be converted exactly.
    """
    module = onnx_to_torch(file, freeze=options.freeze, learned=options.learned)
    if not any(True for _ in module.parameters()):
        raise nothing_to_train(str(path))
    if isinstance(options.preprocessing, Preprocessing):
        check_image_size(str(path), require_record(module).inputs, options.preprocessing)
    _refuse_nan(module, path)
    return module


def _proved_again(module: fx.GraphModule, file: ModelFile) -> tuple[BatchProof | None, str]:
    """The proof of a module whose weights are no longer those of `file`, and what is wrong where there is none.

    Raises:
        InputError: its images mix with these weights.
    """
    sizes = sizes_to_prove(sum(parameter.numel() for parameter in module.parameters()))
    batch = settled(file.name, find_batch(TorchRunner(module), sizes=sizes, held=held_batches(file.outline)))
    if batch.batch is not None:
        raise InputError(f"{batch.note}, with the given weights; convert the file that they were trained in")
    return batch.proof, batch.note


@dataclass(frozen=True)
class _Restored:
    """The results of `_restore`."""

    reference: Reference
    """The reference for the module after this step."""
    parity: tuple[BatchParity, ...] = ()
    """Measured after restoring BatchNorm; () where none was restored."""
    report: RestoreReport | None = None
    weights: WeightMatch | None = None
    links: tuple[ChainLink, ...] = ()


def _restore(
    module: fx.GraphModule,
    reference: Reference,
    file: ModelFile,
    preprocessing: PreprocessingDecision | str,
    options: ConversionOptions,
) -> _Restored:
    """Load weights and restore BatchNorm, in place; unfused weights are loaded after BatchNorm was restored.

    Raises:
        InputError: no layer lost a BatchNorm, the images or the weights do not fit.
        GateError: the module with restored BatchNorm computes something else.
    """
    weights = None if options.weights is None else read_state_dict(options.weights)
    report, match = None, None
    parity: tuple[BatchParity, ...] = ()
    links: list[ChainLink] = []
    unfused = weights is not None and options.restore_bn and is_unfused(module, weights)
    if weights is not None and not unfused:
        match = _load(module, weights, file, options)
        reference = _following(reference, module, match)
    if options.restore_bn:
        report = _restore_batchnorm(module, Path(file.label), preprocessing, options)
        parity = reference.measure(module, options.tolerance, "with restored BatchNorm")
        links.append(restored_link(report, parity_max_rel=_errors(parity)))
    if weights is not None and unfused:
        match = _load(module, weights, file, options)
        reference = _following(reference, module, match)
    if weights is not None and match is not None:
        links.append(weights_link(match, unfused=unfused))
    return _Restored(reference, parity, report, match, tuple(links))


def _following(reference: Reference, module: fx.GraphModule, match: WeightMatch) -> Reference:
    """The reference for a module that has the weights of `match`.

    Raises:
        InputError: its outputs hold NaN or infinity, and those of the file do not.
    """
    followed = reference.following(module)
    for before, after in zip(reference.samples, followed.samples, strict=True):
        refuse_broken_outputs(match, before.outputs, after.outputs)
    return followed


def _load(module: fx.GraphModule, weights: StateDictFile, file: ModelFile, options: ConversionOptions) -> WeightMatch:
    """Load `weights` into the module, in place.

    Raises:
        InputError: they do not fit.
    """
    return load_state_dict_file(
        module,
        weights,
        may_lack=lambda _: options.allow_partial,
        may_have_others=options.allow_partial,
        way_out="give the weights of this graph, or of the network it was exported from, or --allow-partial",
        graph=file.outline.graph,
    )


def _measured(match: WeightMatch | None, parity: tuple[BatchParity, ...]) -> WeightMatch | None:
    """The report on loaded weights, with the largest difference that they made."""
    if match is None:
        return None
    return replace(match, difference=max((entry.parity for entry in parity), key=lambda parity: parity.max_rel))


def _restore_batchnorm(
    module: fx.GraphModule, path: Path, preprocessing: PreprocessingDecision | str, options: ConversionOptions
) -> RestoreReport:
    images = options.calibrate
    if callable(images):
        if isinstance(preprocessing, str):
            raise InputError(f"{path}: {preprocessing}")
        images = images(preprocessing.preprocessing)
    assert images is not None
    state = None if options.calibration_state is None else Path(options.calibration_state)
    report = restore_batchnorm(module, images, state=state, progress=options.progress)
    if not report.restored:
        reasons = sorted({entry.reason for entry in report.skipped})
        raise InputError(
            f"{path}: --restore-bn found no layer that lost a BatchNorm ({'; '.join(reasons) or 'no Conv'}); "
            "convert without it"
        )
    return report


def _save(
    module: fx.GraphModule, file: ModelFile, target: Path, options: ConversionOptions, proof: BatchProof | None
) -> None:
    """Write the bundle, complete or not at all.

    Raises:
        InputError: it cannot be written.
    """
    record = require_record(module)
    provenance = {"made_by": "onnx2torch", "chain": to_json(record.chain)}
    try:
        save_bundle(
            module,
            target,
            source=file,
            preprocessing=record.preprocessing,
            overwrite=options.overwrite,
            provenance=provenance,
            batch_proof=proof,
        )
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{target}: cannot be written ({reason}); nothing was left behind") from error


def _refuse_nan(module: fx.GraphModule, path: Path) -> None:
    """Refuse NaN in weights: it cannot be trained, and kernels that ignore it hide it from every comparison."""
    bad = [name for name, parameter in module.named_parameters() if bool(parameter.isnan().any())]
    if bad:
        raise InputError(f"{path}: weight {first_named(bad)} holds NaN; give a sound file")


def _converted_link(parity: Sequence[BatchParity], batch: Batch | None) -> ChainLink:
    worst = max(entry.parity.max_rel for entry in parity)
    versions = tool_versions()
    facts: dict[str, Any] = {"parity_max_rel": _errors(parity), "versions": versions}
    if batch is not None:
        facts["batch"] = batch
    detail = f"by rtool {versions['rtool']}, max relative error {worst:.2g} against {parity[0].oracle}"
    return ChainLink("converted", detail, facts)


def _errors(parity: Sequence[BatchParity]) -> dict[str, float]:
    """Max relative error by batch."""
    return {str(entry.batch): entry.parity.max_rel for entry in parity}
