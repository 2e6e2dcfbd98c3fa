"""What a Triton configuration must match: the inputs and outputs of an ONNX graph, its opset and IR version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...converters.graphs.graph_view import GraphView
from ...converters.preprocessing.evidence import PreprocessingEvidence, evidence_of_view
from ...errors import InputError

if TYPE_CHECKING:
    import onnx

    from ...converters.files.model_file import ModelFile

__all__ = ["GraphSignature", "GraphTensor", "read_signature"]

Dim = int | str | None

_TRITON_TYPES = {
    1: "TYPE_FP32",
    2: "TYPE_UINT8",
    3: "TYPE_INT8",
    4: "TYPE_UINT16",
    5: "TYPE_INT16",
    6: "TYPE_INT32",
    7: "TYPE_INT64",
    8: "TYPE_STRING",
    9: "TYPE_BOOL",
    10: "TYPE_FP16",
    11: "TYPE_FP64",
    12: "TYPE_UINT32",
    13: "TYPE_UINT64",
    16: "TYPE_BF16",
}
"""ONNX element type (onnx.TensorProto.DataType) -> Triton data type."""

_NUMPY_TYPES = {
    "TYPE_BOOL": "bool",
    "TYPE_FP16": "float16",
    "TYPE_FP32": "float32",
    "TYPE_FP64": "float64",
} | {f"TYPE_{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}


@dataclass(frozen=True)
class GraphTensor:
    """One graph input or output: `data_type` as Triton names it, `shape` of numbers, symbols or None (unknown)."""

    name: str
    data_type: str
    shape: tuple[Dim, ...]

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape as a configuration states it: -1 for every axis without a fixed size."""
        return tuple(dim if isinstance(dim, int) else -1 for dim in self.shape)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The NumPy type.

        Raises:
            InputError: a type that NumPy lacks (BF16) or that has no fixed size (STRING).
        """
        if self.data_type not in _NUMPY_TYPES:
            raise InputError(f"tensor {self.name!r}: {self.data_type} cannot be served; cast it inside the graph")
        return np.dtype(_NUMPY_TYPES[self.data_type])


@dataclass(frozen=True)
class GraphSignature:
    """Inputs (without initializers) and outputs of a graph, in graph order."""

    path: Path
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    opset: int
    ir_version: int
    metadata: Mapping[str, str]
    """The file's own metadata, where `rtool export` states preprocessing and provenance."""
    evidence: PreprocessingEvidence
    """What the graph shows of its preprocessing, without what its metadata state."""
    sha256: str
    """SHA-256 in hexadecimal of the bytes that the signature was read from; what is published must have it too."""
    file: ModelFile = field(repr=False, compare=False)
    """Those bytes: a publish tries them out and publishes them, whatever becomes of the file meanwhile."""

    @property
    def batch(self) -> int | None:
        """The fixed batch of the graph; None when the first axis of every input and output is dynamic.

        Raises:
            InputError: the inputs and outputs disagree, or a tensor has no batch axis.
        """
        sizes = {tensor.name: tensor.dims[0] if tensor.dims else 0 for tensor in (*self.inputs, *self.outputs)}
        if all(size == -1 for size in sizes.values()):
            return None
        of_inputs = {sizes[tensor.name] for tensor in self.inputs}
        if len(of_inputs) == 1 and min(of_inputs) > 0:
            return of_inputs.pop()
        listed = ", ".join(f"{name}: {'dynamic' if size == -1 else size or 'scalar'}" for name, size in sizes.items())
        raise InputError(
            f"{self.path}: inputs and outputs disagree on the batch axis ({listed}); re-export it with one batch, "
            "e.g. `rtool export MODEL --batch 16`"
        )


def read_signature(path: str | Path) -> GraphSignature:
    """Read the signature of an ONNX file; the weights are parsed but not checked.

    Raises:
        InputError: the file is missing, is not ONNX, keeps weights in other files, or has inputs or outputs that Triton
            does not support.
    """
    from ...converters.files.external_data import external_locations
    from ...converters.files.model_file import ModelFile

    path = Path(path)
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
    if kind.elem_type not in _TRITON_TYPES:
        raise InputError(f"{path}: {value.name!r} has ONNX type {kind.elem_type}, which Triton cannot serve")
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in kind.shape.dim)
    return GraphTensor(value.name, _TRITON_TYPES[kind.elem_type], shape)
