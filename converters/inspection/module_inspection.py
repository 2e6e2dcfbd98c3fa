"""Inspect what only torch opens (bundles of the zoo, run folders), and convert to find more.

Nothing is written. A conversion is tried and its result discarded, so that problems, and BatchNorms that cannot be
folded, are found by trying.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import InputError, RtoolError
from ..batchnorm.fold import KeptBatchNorm, fold_batchnorm
from ..bundles.reference import Model, load_model
from ..files.model_file import ModelFile
from ..lowering.conversion import onnx_to_torch
from ..preprocessing.decision import known_preprocessing
from ..records.provenance import chain_of_bundle
from ..runtime.batches.file_batch import find_file_batch
from .bundle_inspection import inspect_stored_bundle
from .inspection import UNPROVED, BatchNorms, Inspection, describe_proof

__all__ = ["inspect_bundle", "inspect_module", "try_batch", "try_conversion"]


def inspect_bundle(path: Path) -> Inspection:
    """Inspect a bundle whose files do not say enough: one of a model from the zoo, or of an earlier rtool.

    Raises:
        InputError: not a bundle, or its files do not fit together.
    """
    model = load_model(path)
    bundle = model.bundle
    if bundle is None:
        raise InputError(f"{path}: is not a bundle")
    if bundle.record is not None:
        return inspect_stored_bundle(path, bundle.metadata, {name for name, _ in bundle.module.named_buffers()})
    size = sum(file.stat().st_size for file in path.iterdir())
    found = _of_module(bundle.module, path.name, "bundle", size)
    return replace(found, chain=chain_of_bundle(bundle.metadata), **_stated(model))


def _stated(model: Model) -> dict[str, Any]:
    """The fields of an inspection on the preprocessing."""
    found = known_preprocessing(replace(model.evidence(), label=model.name))
    if isinstance(found, str):
        return {"preprocessing": None, "preprocessing_origin": found}
    return {"preprocessing": found.preprocessing, "preprocessing_origin": found.reason}


def inspect_module(reference: str) -> Inspection:
    """Inspect any other model reference, opened as a module.

    Raises:
        InputError: the reference names nothing that can be opened.
    """
    model = load_model(reference)
    size = model.path.stat().st_size if model.path is not None and model.path.is_file() else 0
    found = replace(_of_module(model.module, model.name, model.kind, size), **_stated(model))
    return replace(found, inputs=model.inputs, batch=model.batch or "dynamic", chain=model.chain)


def _of_module(module: nn.Module, name: str, kind: str, size: int) -> Inspection:
    leaves = (layer for layer in module.modules() if not list(layer.children()))
    layers = Counter(str(getattr(layer, "original_name", type(layer).__name__)) for layer in leaves)
    present = sum(count for layer, count in layers.items() if "BatchNorm" in layer)
    return Inspection(
        name=name,
        kind=kind,
        size_bytes=size,
        sha256=None,
        producer="torch",
        ir_version=None,
        opsets={},
        inputs=(),
        outputs=(),
        batch="dynamic",
        fixed_batch_places=(),
        operators=dict(layers.most_common()),
        parameters=_trainable(module),
        buffers=_fixed(module),
        macs=None,
        activations=None,
        precision="/".join(sorted({str(p.dtype).removeprefix("torch.") for p in module.parameters()})) or "no weights",
        batchnorms=BatchNorms(None, present),
        preprocessing=None,
        preprocessing_origin=None,
        architecture=None,
        problems=(),
        chain=(),
    )


def _trainable(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _fixed(module: nn.Module) -> int:
    """The number of floats in buffers; counters are not part of the function."""
    return sum(buffer.numel() for buffer in module.buffers() if buffer.is_floating_point())


def try_batch(file: ModelFile, found: Inspection) -> Inspection:
    """`found` with the proof of a batch that the file declares open, made by running it, or what is wrong with it."""
    if found.batch != "dynamic" or not found.inputs:
        return found
    try:
        finding = find_file_batch(file)
    except InputError as error:
        return replace(found, batch_proof=UNPROVED, problems=(*found.problems, str(error)))
    if finding.proof is not None:
        return replace(found, batch_proof=describe_proof(finding.proof))
    problem = f"{found.name}: {finding.describe()}"
    return replace(found, batch_proof="wrong" if finding.is_wrong else UNPROVED, problems=(*found.problems, problem))


def try_conversion(file: ModelFile) -> tuple[tuple[str, ...], tuple[KeptBatchNorm, ...]]:
    """Problems that prevent the conversion; if there are none, the BatchNorms that cannot be folded."""
    try:
        module = onnx_to_torch(file)
    except RtoolError as error:
        return (str(error),), ()
    return (), fold_batchnorm(module).kept
