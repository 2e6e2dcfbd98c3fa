"""The outputs that a served model must reproduce: those of its runtime in this process on the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....converters.runtime.double_precision import exact_outputs
from ....errors import InputError
from ...repository.graph_signature import GraphSignature
from ...repository.signatures.reading import open_served, probability_positions
from ...repository.signatures.torch_file import TorchFile

__all__ = ["exact_golden_outputs", "golden_outputs", "golden_probabilities"]

Arrays = tuple[NDArray[Any], ...]


def golden_outputs(
    signature: GraphSignature, inputs: Mapping[str, NDArray[Any]], *, threads: int | None, outputs: Sequence[str]
) -> Arrays:
    """The outputs of a file on the CPU, in the order of the names in `outputs`.

    `inputs` maps input names to arrays of the model's shapes and dtypes. `threads` is the number in the model's
    configuration, so that sums are rounded in the same order as on the server.

    Raises:
        InputError: the file cannot be opened or run.
    """
    if isinstance(signature.file, TorchFile):
        with _torch_threads(threads):
            results = open_served(signature).run(*(inputs[tensor.name] for tensor in signature.inputs))
        return _named(signature, results, outputs)
    return _of_onnx(signature.path, inputs, threads, outputs)


def exact_golden_outputs(
    signature: GraphSignature, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]
) -> Arrays | None:
    """The outputs of a file in float64, in the order of `outputs`; None where they cannot be computed."""
    runner = open_served(signature)
    exact = exact_outputs(runner, [inputs[spec.name] for spec in runner.inputs])
    return None if exact is None else _named(signature, exact, outputs)


def golden_probabilities(signature: GraphSignature, outputs: Sequence[str]) -> tuple[int, ...]:
    """Which of `outputs` a Sigmoid or Softmax gives."""
    found = {signature.outputs[index].name for index in probability_positions(signature)}
    return tuple(index for index, name in enumerate(outputs) if name in found)


def _named(signature: GraphSignature, arrays: Sequence[NDArray[Any]], outputs: Sequence[str]) -> Arrays:
    named = {tensor.name: array for tensor, array in zip(signature.outputs, arrays, strict=True)}
    return tuple(named[name] for name in outputs)


def _of_onnx(model: Path, inputs: Mapping[str, NDArray[Any]], threads: int | None, outputs: Sequence[str]) -> Arrays:
    import onnxruntime

    from ....converters.runtime.session_model import session_model

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    given = session_model(model, options)
    try:
        session = onnxruntime.InferenceSession(given.content, options, providers=["CPUExecutionProvider"])
        results = session.run(list(outputs), dict(inputs))
    except Exception as error:  # onnxruntime raises many unrelated types
        raise InputError(f"{model}: ONNX Runtime cannot run it ({_first_line(error)}); re-export it") from error
    return tuple(np.asarray(result) for result in results)


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
