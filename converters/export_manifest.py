"""What an export leaves beside the weights: provenance in the model's own metadata, and a manifest file.

The metadata travels with the file (keys `rtool.*`); nodes are never touched by it. The manifest says the same and
more as JSON, and holds the sha256 of the file as written.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from .. import __version__
from .atomic_file import write_atomically
from .batchnorm_names import FOLDED_KEY
from .export_steps import ExportStep
from .fold import FoldReport
from .half import KeptNode
from .preprocessing import Preprocessing
from .preprocessing_guess import METADATA_KEY
from .record import ConversionRecord

__all__ = ["ExportResult", "describe_export", "manifest_path", "write_manifest"]


@dataclass(frozen=True)
class ExportResult:
    """A written export."""

    path: Path
    manifest: Path
    format: str
    model: str
    """What was exported: a bundle, file, zoo name or class."""
    source: str | None
    """The ONNX file the model was once converted from."""
    source_sha256: str | None
    steps: tuple[ExportStep, ...]
    kept_batchnorms: tuple[dict[str, str], ...]
    kept_in_float32: tuple[dict[str, str], ...]
    preprocessing: dict[str, Any] | None
    versions: dict[str, str]
    opset: int | None
    ir_version: int | None
    nodes: int | None
    size_bytes: int = 0
    sha256: str = ""


def manifest_path(path: Path) -> Path:
    """Where the manifest of an export lies: `model.onnx` has `model.onnx.manifest.json`, `model.pt2` its own."""
    return path.with_name(f"{path.name}.manifest.json")


def describe_export(
    model: onnx.ModelProto | None,
    path: Path,
    *,
    name: str,
    record: ConversionRecord | None,
    steps: tuple[ExportStep, ...],
    folds: FoldReport | None,
    kept: tuple[KeptNode, ...],
    preprocessing: Preprocessing | None,
) -> ExportResult:
    """Collect what is known, and put it into the metadata of `model` (in place)."""
    result = ExportResult(
        path=path,
        manifest=manifest_path(path),
        format=path.suffix.lstrip("."),
        model=name,
        source=record.source if record is not None else None,
        source_sha256=record.sha256 if record is not None else None,
        steps=steps,
        kept_batchnorms=tuple(asdict(entry) for entry in folds.kept) if folds is not None else (),
        kept_in_float32=tuple(asdict(entry) for entry in kept),
        preprocessing=preprocessing.to_dict() if preprocessing is not None else None,
        versions={
            "rtool": __version__,
            "torch": str(torch.__version__),
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        opset=next((entry.version for entry in model.opset_import if not entry.domain), None) if model else None,
        ir_version=model.ir_version if model else None,
        nodes=len(model.graph.node) if model else None,
    )
    if model is not None:
        _state_in_metadata(model, result, folds)
    return result


def write_manifest(result: ExportResult, data: bytes) -> ExportResult:
    """Write the manifest of the file whose bytes are `data`."""
    complete = replace(result, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    content = asdict(complete)
    content["path"], content["manifest"] = complete.path.name, complete.manifest.name
    write_atomically(complete.manifest, (json.dumps(content, indent=2) + "\n").encode())
    return complete


def _state_in_metadata(model: onnx.ModelProto, result: ExportResult, folds: FoldReport | None) -> None:
    stated = {
        "rtool.version": result.versions["rtool"],
        "rtool.model": result.model,
        "rtool.source": result.source or "",
        "rtool.source_sha256": result.source_sha256 or "",
        "rtool.steps": json.dumps([asdict(step) for step in result.steps]),
    }
    if result.preprocessing is not None:
        stated[METADATA_KEY] = json.dumps(result.preprocessing)
    if folds is not None:
        # A file that says which layers had a BatchNorm can be made trainable again as it was.
        stated[FOLDED_KEY] = json.dumps({f"{entry.into}.weight": entry.batchnorm for entry in folds.folded})
    survives = {entry.key: entry.value for entry in model.metadata_props}
    kept = {key: value for key, value in survives.items() if not key.startswith("rtool.") or key == FOLDED_KEY}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {**kept, **{key: value for key, value in stated.items() if value}})
