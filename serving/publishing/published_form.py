"""The file that a version publishes, where it is not the one that was given, byte for byte.

ONNX loses the traces that exporters leave (`trace_stripping.py`). A torch file becomes TorchScript of checked records
alone, which states the inputs and outputs under their served names and no positions in sources; an exported program is
written as TorchScript first. Triton's PyTorch back end takes TorchScript in every release; of `.pt2` it takes compiled
ones, since 26.03 and without batches, and those are machine code, which nobody can check.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.records.interface import INTERFACE_KEY, interface_text
from ...converters.records.record import TensorSpec
from ...converters.runtime.parity import measure_parity
from ...errors import GateError, InputError
from ..repository.graph_signature import GraphSignature, GraphTensor
from ..repository.repository import MODEL_FILE, TORCH_FILE
from ..repository.signatures.reading import open_served, read_signature
from ..repository.signatures.torch_file import TorchFile
from ..repository.warmup import example_array
from .trace_stripping import without_traces

__all__ = ["file_name", "form_note", "published_form"]

_TOLERANCE = 1e-5
"""Relative: the same operators in the same runtime, which may fuse some of them."""


def file_name(signature: GraphSignature) -> str:
    """The name of the file in a version folder."""
    return MODEL_FILE if signature.backend == "onnxruntime" else TORCH_FILE


def published_form(
    signature: GraphSignature,
    folder: Path,
    *,
    as_given: bool,
    examples: Mapping[str, NDArray[Any]] | None = None,
) -> GraphSignature:
    """The signature of what is published: a file in `folder`, or `signature` itself where nothing changes.

    `as_given` keeps the bytes that were given, where they can be served. `examples` are arrays [N, ...] by input name.

    Raises:
        InputError: the file cannot be written, or a program cannot be written as TorchScript.
        GateError: what was written does not compute what was given.
    """
    file = signature.file
    if not isinstance(file, TorchFile):
        return signature if as_given else without_traces(signature, folder)
    if as_given and not file.is_program and INTERFACE_KEY in file.metadata:
        return signature
    path = folder / TORCH_FILE
    try:
        path.write_bytes(_rewritten(signature, file))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); check space and permissions") from error
    published = read_signature(path)
    _compare(signature, published, examples)
    return published


def form_note(given: GraphSignature, published: GraphSignature) -> str:
    """What was changed, in a sentence for the user; "" where nothing was."""
    if published is given:
        return ""
    if not isinstance(given.file, TorchFile):
        return "exporters' traces were removed from the nodes; --keep-metadata publishes the file as it is"
    if given.file.is_program:
        return (
            "published as TorchScript with the same operators: of .pt2, Triton's PyTorch back end takes compiled ones "
            "alone, since 26.03 and without batches"
        )
    return "published as its checked records, with its inputs and outputs stated and without positions in sources"


def _rewritten(signature: GraphSignature, file: TorchFile) -> bytes:
    from ...converters.files.torch_archives.scripts import rewritten_script

    stated = {**signature.metadata, INTERFACE_KEY: interface_text(_specs(signature.inputs), _specs(signature.outputs))}
    content = file.as_script() if file.is_program else file.content
    return rewritten_script(signature.path, content, stated)


def _specs(tensors: tuple[GraphTensor, ...]) -> list[TensorSpec]:
    return [TensorSpec(one.name, one.dtype.name, tuple(dim or "" for dim in one.shape)) for one in tensors]


def _compare(given: GraphSignature, published: GraphSignature, examples: Mapping[str, NDArray[Any]] | None) -> None:
    """Both on the same rows: the fixed batch, else one row and three."""
    if examples is None and any(-1 in tensor.dims[1:] for tensor in given.inputs):
        raise InputError(f"{given.path}: has open sizes beside the batch; give example arrays with --warmup")
    runners = [open_served(given), open_served(published)]
    for rows in (given.batch,) if given.batch is not None else (1, 3):
        arrays = [_rows(tensor, examples, rows) for tensor in given.inputs]
        expected, got = (runner.run(*arrays) for runner in runners)
        error = measure_parity(expected, got).max_rel
        if not error <= _TOLERANCE:
            raise GateError(
                f"{given.path}: as TorchScript it differs from the file by {error:.3g} relative at {rows} rows, must "
                f"be <= {_TOLERANCE:g}; export the model it came from with `rtool export MODEL --format torchscript`"
            )


def _rows(tensor: GraphTensor, examples: Mapping[str, NDArray[Any]] | None, rows: int) -> NDArray[Any]:
    if examples is None:
        return example_array(tensor, rows)
    array = np.asarray(examples[tensor.name])
    return np.resize(array, (rows, *array.shape[1:]))
