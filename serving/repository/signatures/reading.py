"""Read the signature of any file that is served, and run it in this process as the server will."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ....converters.runtime.runners import OnnxRunner, Runner
from ..graph_signature import GraphSignature
from .onnx_graph import read_onnx_signature
from .torch_file import TorchFile, is_torch_file
from .torch_signature import Examples, read_torch_signature, torch_runner

if TYPE_CHECKING:
    from ....converters.runtime.batches.batch_proof import BatchFinding

__all__ = ["constant_outputs", "find_served_batch", "open_served", "probability_positions", "read_signature"]


def read_signature(path: str | Path, examples: Examples | None = None, *, backend: str | None = None) -> GraphSignature:
    """The signature of an ONNX file, TorchScript (`.pt`) or an exported program (`.pt2`).

    `examples` are asked only for a torch file that states no shapes. `backend` says what it is, by default its suffix.

    Raises:
        InputError: the file is missing, is none of these, keeps weights in other files, states no shapes and there are
            no examples, or has inputs or outputs that Triton does not support.
    """
    path = Path(path)
    is_torch = is_torch_file(path) if backend is None else backend == "pytorch"
    return read_torch_signature(path, examples) if is_torch else read_onnx_signature(path)


def open_served(signature: GraphSignature) -> Runner:
    """The model in this process: ONNX in ONNX Runtime, a torch file in torch; inputs have the signature's names.

    Raises:
        InputError: it cannot be loaded.
    """
    if isinstance(signature.file, TorchFile):
        return torch_runner(signature)
    return OnnxRunner(signature.file)


def find_served_batch(signature: GraphSignature, examples: Sequence[NDArray[Any]] | None) -> BatchFinding:
    """What is known of the open batch of a file; `examples` are arrays [N, ...] in graph order.

    A server joins any number of rows, so that batches of each size are run, whatever the file states of some.

    Raises:
        InputError: it cannot be loaded.
    """
    from ....converters.runtime.batches.batch_proof import TOLERANCE, find_batch
    from ....converters.runtime.batches.file_batch import (
        batch_tolerance,
        find_file_batch,
        parameters_of,
        sizes_joined,
        sizes_to_prove,
    )

    if isinstance(signature.file, TorchFile):
        parameters, tolerance = sum(tensor.numel() for tensor in signature.file.module.parameters()), TOLERANCE
        finding = find_batch(open_served(signature), examples=examples, sizes=sizes_to_prove(parameters))
    else:
        parameters, tolerance = parameters_of(signature.file.outline), batch_tolerance(signature.file.outline)
        finding = find_file_batch(signature.file, examples=examples)
    if finding.proof is None:
        return finding
    others = sorted(set(sizes_joined(parameters)) - set(finding.proof.sizes))
    joined = find_batch(open_served(signature), examples=examples, sizes=others, tolerance=tolerance)
    return finding if joined.proof is not None else joined


def constant_outputs(signature: GraphSignature) -> Collection[str]:
    """Outputs that no input reaches, so that they may be the same for every image; a torch file shows none."""
    if isinstance(signature.file, TorchFile):
        return ()
    from ....converters.runtime.nonsense import unreached_outputs

    return unreached_outputs(signature.file.outline.graph)


def probability_positions(signature: GraphSignature) -> tuple[int, ...]:
    """Positions of outputs that a Sigmoid or Softmax gives; a torch file shows none."""
    if isinstance(signature.file, TorchFile):
        return ()
    from ....converters.runtime.probability_outputs import probability_outputs

    return probability_outputs(signature.file.outline.graph)
