"""Read the signature of an ONNX file; the weights are parsed but not checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ....converters.graphs.graph_view import GraphView
from ....converters.preprocessing.evidence import evidence_of_view
from ....converters.runtime.session_model import last_optimisations_crash
from ....errors import InputError
from ..graph_signature import TRITON_TYPES, GraphSignature, GraphTensor

if TYPE_CHECKING:
    import onnx

__all__ = ["read_onnx_signature"]


def read_onnx_signature(path: Path) -> GraphSignature:
    """The signature of an ONNX file.

    Raises:
        InputError: the file is missing, is not ONNX, keeps weights in other files, or has inputs or outputs that Triton
            does not support.
    """
    from ....converters.files.external_data import external_locations
    from ....converters.files.model_file import ModelFile

    file = ModelFile.read(path)
    model = file.outline
    if not model.graph.output:
        raise InputError(f"{path}: expected an ONNX model, found no graph outputs; re-export it")
    if file.has_external_data:
        named = ", ".join(external_locations(model, str(path)))
        raise InputError(
            f"{path}: keeps weights in other files ({named}), and a version is published as one "
            f"file; save it whole: onnx.save(onnx.load({str(path)!r}), 'whole.onnx')"
        )
    weights = {initializer.name for initializer in model.graph.initializer}
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    return GraphSignature(
        path,
        tuple(_tensor(path, value) for value in model.graph.input if value.name not in weights),
        tuple(_tensor(path, value) for value in model.graph.output),
        opset,
        model.ir_version,
        {entry.key: entry.value for entry in model.metadata_props},
        evidence_of_view(_view(model, str(path)), str(path), {}),
        file.source.sha256 or "",
        file,
        holds_back=last_optimisations_crash(file),
    )


def _view(model: onnx.ModelProto, label: str) -> GraphView:
    """The graph; one whose functions cannot be inlined as it is, for running it will tell more."""
    try:
        return GraphView.of(model, label)
    except InputError:
        return GraphView(model, label)


def _tensor(path: Path, value: object) -> GraphTensor:
    import onnx

    if not isinstance(value, onnx.ValueInfoProto) or not value.type.HasField("tensor_type"):
        raise InputError(f"{path}: {getattr(value, 'name', '?')!r} is not a tensor; Triton serves tensors only")
    kind = value.type.tensor_type
    if kind.elem_type not in TRITON_TYPES:
        raise InputError(f"{path}: {value.name!r} has ONNX type {kind.elem_type}, which Triton cannot serve")
    if not kind.HasField("shape"):  # not the same as a scalar, whose shape is stated and has no axes
        raise InputError(
            f"{path}: {value.name!r} states no shape, and Triton's configuration needs one; `rtool export {path} "
            "-o OUT.onnx` states those of outputs; inputs need theirs from the exporter"
        )
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in kind.shape.dim)
    return GraphTensor(value.name, TRITON_TYPES[kind.elem_type], shape)
