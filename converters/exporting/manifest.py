"""The provenance of an export: in the model's own metadata, and in a manifest file.

The metadata (keys `rtool.*`) is part of the file; nodes are not changed by it. The manifest contains the same and more
as JSON, with the sha256 of the file as written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from ..batchnorm.fold import FoldReport, KeptBatchNorm
from ..files.atomic_file import write_together
from ..precision.half import Float32Node
from ..records.batch_proof import BatchProof
from ..records.metadata import FOLDED_KEY
from ..records.preprocessing import METADATA_KEY, Preprocessing
from ..records.provenance import CHAIN_KEY, ChainLink, to_json, tool_versions
from ..records.record import ConversionRecord
from ..weights.weight_match import WeightMatch
from .step_log import ExportStep

__all__ = ["ExportResult", "describe_export", "manifest_path", "metadata_of", "write_export"]


@dataclass(frozen=True)
class ExportResult:
    """A written export."""

    path: Path
    manifest: Path
    format: str
    model: str
    """Name of the exported bundle, file, zoo architecture or class."""
    source: str | None
    """The ONNX file that the model was converted from."""
    source_sha256: str | None
    steps: tuple[ExportStep, ...]
    measured_on: dict[str, Any]
    """Number and sha256 of the images that every step was measured on (and int8 calibrated), and whether they were
    random."""
    chain: tuple[ChainLink, ...]
    """The provenance of the file; this export is the last link."""
    kept_batchnorms: tuple[dict[str, str], ...]
    float32_nodes: tuple[dict[str, str], ...]
    """Nodes that stay in float32 in a file of reduced precision, each with the reason."""
    preprocessing: dict[str, Any] | None
    preprocessing_origin: str
    """Where it comes from, or why it is not known."""
    versions: dict[str, str]
    opset: int | None
    ir_version: int | None
    nodes: int | None
    upcast: str | None = None
    """What a model that came in 16 bits was exported from; None where it came in float32, or is exported as stored."""
    batch_proof: BatchProof | None = None
    """That the file's open batch is its images one by one; None where its batch is fixed, or nothing could be run."""
    batch_note: str = ""
    """What is wrong with the open batch that the source or the file declares; "" where nothing is."""
    size_bytes: int = 0
    sha256: str = ""
    weights: WeightMatch | None = None
    """What was loaded from a file over the model's own weights; in files, `chain` has it."""


def manifest_path(path: Path) -> Path:
    """The path of the manifest of an export: for `model.onnx` it is `model.onnx.manifest.json`."""
    return path.parent / f"{path.name}.manifest.json"


def describe_export(
    model: onnx.ModelProto | None,
    path: Path,
    *,
    name: str,
    record: ConversionRecord | None,
    steps: tuple[ExportStep, ...],
    measured_on: Mapping[str, Any],
    chain: tuple[ChainLink, ...],
    folds: FoldReport | None,
    kept_batchnorms: tuple[KeptBatchNorm, ...],
    float32_nodes: tuple[Float32Node, ...],
    preprocessing: Preprocessing | None,
    batch_proof: BatchProof | None,
    batch_note: str,
    preprocessing_origin: str,
) -> ExportResult:
    """Collect the result, and write it into the metadata of `model`, in place; `chain` ends before this export."""
    versions = tool_versions()
    result = ExportResult(
        path=path,
        manifest=manifest_path(path),
        format=path.suffix.lstrip("."),
        model=name,
        source=record.source if record is not None else None,
        source_sha256=record.sha256 if record is not None else None,
        steps=steps,
        measured_on=dict(measured_on),
        chain=(*chain, _exported_link(steps, measured_on, path, versions)),
        kept_batchnorms=tuple(asdict(entry) for entry in kept_batchnorms),
        float32_nodes=tuple(asdict(entry) for entry in float32_nodes),
        preprocessing=preprocessing.to_dict() if preprocessing is not None else None,
        preprocessing_origin=preprocessing_origin,
        versions=versions,
        upcast=_upcast(chain, steps),
        opset=next((entry.version for entry in model.opset_import if not entry.domain), None) if model else None,
        ir_version=model.ir_version if model else None,
        nodes=len(model.graph.node) if model else None,
        batch_proof=batch_proof,
        batch_note=batch_note,
    )
    if model is not None:
        _state_in_metadata(model, result, folds, record)
    return result


def _upcast(chain: tuple[ChainLink, ...], steps: tuple[ExportStep, ...]) -> str | None:
    detail = next((link.detail for link in reversed(chain) if link.step == "upcast"), None)
    if detail is None:
        return None
    last = next((step.name for step in steps if step.name in ("fp16", "bf16", "int8")), "fp32")
    return f"came as {detail}; exported in {last}"


def _exported_link(
    steps: tuple[ExportStep, ...], measured_on: Mapping[str, Any], path: Path, versions: dict[str, str]
) -> ChainLink:
    worst = min((step.min_cosine for step in steps), default=1.0)
    detail = f"as {path.name}: {', '.join(step.name for step in steps)}; min cosine {worst:.6f}"
    parity = [
        {"step": s.name, "max_rel": s.max_rel, "min_cosine": s.min_cosine, "rank_agreement": s.rank_agreement}
        for s in steps
    ]
    facts = {"file": path.name, "parity": parity, "measured_on": dict(measured_on), "versions": versions}
    return ChainLink("exported", detail, facts)


def write_export(result: ExportResult, data: bytes) -> ExportResult:
    """Write the file whose bytes are `data`, and its manifest: both or neither.

    Raises:
        InputError: one of them cannot be written; nothing is left behind.
    """
    complete = replace(result, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    content = asdict(complete)
    del content["weights"]
    content["path"], content["manifest"] = complete.path.name, complete.manifest.name
    write_together({complete.path: data, complete.manifest: (json.dumps(content, indent=2) + "\n").encode()})
    return complete


def metadata_of(result: ExportResult) -> dict[str, str]:
    """The provenance that the file itself states, by key."""
    stated = {
        "rtool.version": result.versions["rtool"],
        "rtool.model": result.model,
        "rtool.source": result.source or "",
        "rtool.source_sha256": result.source_sha256 or "",
        "rtool.steps": json.dumps([asdict(step) for step in result.steps]),
        CHAIN_KEY: json.dumps(to_json(result.chain)),
        METADATA_KEY: json.dumps(result.preprocessing) if result.preprocessing is not None else "",
    }
    return {key: value for key, value in stated.items() if value}


def _state_in_metadata(
    model: onnx.ModelProto, result: ExportResult, folds: FoldReport | None, record: ConversionRecord | None
) -> None:
    stated = metadata_of(result)
    if folds is not None:
        # A file that says which layers had a BatchNorm can be made trainable again as it was.
        stated[FOLDED_KEY] = json.dumps(_folded_behind(folds, record))
    survives = {entry.key: entry.value for entry in model.metadata_props}
    kept = {key: value for key, value in survives.items() if not key.startswith("rtool.") or key == FOLDED_KEY}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {**kept, **stated})


def _folded_behind(folds: FoldReport, record: ConversionRecord | None) -> dict[str, str]:
    """Weight -> BatchNorm that was behind its layer, folded here or when the source was exported."""
    earlier = {} if record is None else record.folded
    known = {
        name: earlier[source.value]
        for name, source in (record.parameters.items() if record is not None else ())
        if source.value in earlier
    }
    return known | {f"{entry.into}.weight": entry.batchnorm for entry in folds.folded if entry.place == "behind"}
