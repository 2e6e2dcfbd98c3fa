"""Read the signature of a torch file: what `rtool export` states in it, else what example arrays show.

TorchScript states neither types nor shapes, and the server does not find out, so that a file of others needs examples:
arrays of the sizes that it takes. Names are such that Triton's PyTorch back end understands them (`torch_names.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....converters.files.torch_archives.torch_names import served_names
from ....converters.preprocessing.evidence import evidence_of_inputs
from ....converters.records.interface import INTERFACE_KEY
from ....converters.records.record import TensorSpec
from ....converters.runtime.runners import Runner, TorchRunner
from ....errors import InputError
from ..graph_signature import GraphSignature, GraphTensor
from .torch_file import TorchFile

__all__ = ["Examples", "read_torch_signature", "torch_runner"]

Examples = Callable[[], Mapping[str, NDArray[Any]] | NDArray[Any] | None]
"""Gives example arrays [N, ...] by input name, or the array of the only input; None where there are none."""

_TYPES = {np.dtype(name).name for name in ("bool", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8")}
"""What the PyTorch back end carries (`ModelConfigDataTypeToTorchType`)."""


def read_torch_signature(path: Path, examples: Examples | None = None) -> GraphSignature:
    """The signature of TorchScript (`.pt`) or an exported program (`.pt2`).

    Raises:
        InputError: the file is not such, states no shapes and there are no examples, or has inputs or outputs that the
            PyTorch back end does not carry.
    """
    file = TorchFile.read(path)
    arguments = file.arguments()
    inputs, outputs = file.interface()
    if not inputs or not outputs:
        inputs, outputs = _shown(file, arguments, examples() if examples is not None else None)
    if len(inputs) != len(arguments):
        raise InputError(
            f"{path}: states {len(inputs)} inputs and takes {len(arguments)} ({', '.join(arguments)}); export it again"
        )
    return GraphSignature(
        path,
        _tensors(path, inputs, served_names([spec.name for spec in inputs], "INPUT", arguments)),
        _tensors(path, outputs, served_names([spec.name for spec in outputs], "OUTPUT")),
        None,
        None,
        {key: text for key, text in file.metadata.items() if key != INTERFACE_KEY},
        evidence_of_inputs(str(path), inputs),
        file.sha256,
        file,
        "pytorch",
    )


def torch_runner(signature: GraphSignature) -> Runner:
    """The model of a torch file's signature in torch on the CPU, under the names of the signature."""
    assert isinstance(signature.file, TorchFile)
    specs = [
        tuple(TensorSpec(one.name, one.dtype.name, tuple(dim or "" for dim in one.shape)) for one in tensors)
        for tensors in (signature.inputs, signature.outputs)
    ]
    module, name = signature.file.module, str(signature.path)
    return TorchRunner(module, inputs=specs[0], outputs=specs[1], name=name, batch=signature.batch)


def _shown(
    file: TorchFile, arguments: Sequence[str], examples: Mapping[str, NDArray[Any]] | NDArray[Any] | None
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs by running the examples: the batch is open where one row and three rows run too."""
    arrays = _by_argument(file, arguments, examples)
    runner = TorchRunner(file.module, name=str(file.path))
    rows = min(len(array) for array in arrays)
    whole = runner.run(*(array[:rows] for array in arrays))

    def follows(count: int) -> bool:
        try:
            results = runner.run(*(np.resize(array, (count, *array.shape[1:])) for array in arrays))
        except InputError:
            return False
        return all(result.ndim > 0 and len(result) == count for result in results)

    batch: int | str = "batch" if follows(1) and follows(3) else rows
    inputs = [
        TensorSpec(name, array.dtype.name, (batch, *array.shape[1:]))
        for name, array in zip(arguments, arrays, strict=True)
    ]
    outputs = [
        TensorSpec(f"OUTPUT__{index}", result.dtype.name, (batch, *result.shape[1:]) if result.ndim else ())
        for index, result in enumerate(whole)
    ]
    return tuple(inputs), tuple(outputs)


def _by_argument(
    file: TorchFile, arguments: Sequence[str], examples: Mapping[str, NDArray[Any]] | NDArray[Any] | None
) -> list[NDArray[Any]]:
    named = {arguments[0]: examples} if isinstance(examples, np.ndarray) and len(arguments) == 1 else examples
    takes = ", ".join(arguments)
    if named is None or isinstance(named, np.ndarray):
        raise InputError(
            f"{file.path}: states no shapes, as TorchScript does not; give an array for each input ({takes}) with "
            "--warmup FILE.npz, or export it with `rtool export MODEL --format torchscript`"
        )
    places = [f"INPUT__{index}" for index in range(len(arguments))]
    found = [named.get(name, named.get(place)) for name, place in zip(arguments, places, strict=True)]
    arrays = [array for array in found if array is not None]
    if len(arrays) != len(arguments) or any(array.ndim == 0 or not len(array) for array in arrays):
        raise InputError(f"{file.path}: takes {takes}, and the arrays given are {', '.join(named) or 'none'}")
    return [np.asarray(array) for array in arrays]


def _tensors(path: Path, specs: Sequence[TensorSpec], names: Sequence[str]) -> tuple[GraphTensor, ...]:
    others = [f"{spec.name} ({spec.dtype})" for spec in specs if spec.dtype not in _TYPES]
    if others:
        raise InputError(f"{path}: {', '.join(others)}: Triton's PyTorch back end has no such type; cast it inside")
    return tuple(
        GraphTensor(name, _triton_type(spec.dtype), tuple(spec.shape)) for name, spec in zip(names, specs, strict=True)
    )


def _triton_type(dtype: str) -> str:
    return f"TYPE_{dtype.upper()}".replace("TYPE_FLOAT", "TYPE_FP")
