"""What a Triton configuration must match: the inputs and outputs of a model file, and which back end runs it.

`signatures/` reads them from ONNX and from torch files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...converters.preprocessing.evidence import PreprocessingEvidence
from ...errors import InputError

if TYPE_CHECKING:
    from ...converters.files.model_file import ModelFile
    from .signatures.torch_file import TorchFile

__all__ = ["TRITON_TYPES", "Backend", "GraphSignature", "GraphTensor"]

Backend = Literal["onnxruntime", "pytorch"]

Dim = int | str | None

TRITON_TYPES = {
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
    opset: int | None
    """None for a torch file, as `ir_version`."""
    ir_version: int | None
    metadata: Mapping[str, str]
    """The file's own metadata, where `rtool export` states preprocessing and provenance."""
    evidence: PreprocessingEvidence
    """What the graph shows of its preprocessing, without what its metadata state."""
    sha256: str
    """SHA-256 in hexadecimal of the bytes that the signature was read from; what is published must have it too."""
    file: ModelFile | TorchFile = field(repr=False, compare=False)
    """Those bytes: a publish tries them out and publishes them, whatever becomes of the file meanwhile."""
    backend: Backend = "onnxruntime"
    holds_back: bool = False
    """Whether ONNX Runtime must leave out its last optimisations on a CPU (`session_model`)."""

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
