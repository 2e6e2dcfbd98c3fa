"""Whether an ONNX file takes the open batch that it declares: by the proof that it states, else by running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...files.model_file import ModelFile
from ...records.batch_proof import BatchProof, proof_of_file
from ..probes.given_probes import Probe
from ..reference_runner import WillingRunner
from ..runners import Runner
from .batch_proof import LARGE_SIZES, REDUCED, SIZES, TOLERANCE, BatchFinding, find_batch, held_batches

__all__ = [
    "batch_tolerance",
    "find_file_batch",
    "parameters_of",
    "sizes_joined",
    "sizes_to_prove",
    "stated_proof",
]

_SMALL = 3_000_000
"""Parameters; a network up to this size, such as every OSNet, runs 16 images in at most a second on one core."""
_REDUCED_TYPES = frozenset({onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})
_QUANTISED = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger"})


def find_file_batch(
    file: ModelFile,
    runner: Runner | None = None,
    examples: Sequence[NDArray[Any]] | None = None,
    *,
    tolerance: float = TOLERANCE,
    probes: Mapping[str, Probe] | None = None,
) -> BatchFinding:
    """What is known of the batch of `file`, which declares an open one.

    Args:
        file: the model; a proof that it states for its own bytes is believed.
        runner: the model in ONNX Runtime, where it is open already.
        examples: one array per input, for the sizes beside the batch that the model leaves open.
        tolerance: largest relative error; for a file of reduced precision at least `REDUCED`.
        probes: values of single inputs, by name, in place of random ones.

    Raises:
        InputError: ONNX Runtime cannot load it.
    """
    stated = stated_proof(file)
    if stated is not None:
        return BatchFinding(stated)
    runner = runner or WillingRunner(file)
    outline = file.outline
    return find_batch(
        runner,
        examples=examples,
        sizes=sizes_to_prove(parameters_of(outline)),
        tolerance=max(tolerance, batch_tolerance(outline)),
        held=held_batches(outline),
        probes=probes,
    )


def stated_proof(file: ModelFile) -> BatchProof | None:
    """The proof in the file; None where it has none, or keeps weights in other files, which no proof covers."""
    return None if file.has_external_data else proof_of_file(file.content())


def parameters_of(model: onnx.ModelProto) -> int:
    """How many numbers its weights have."""
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)


def sizes_joined(parameters: int) -> range:
    """Batches that a server may join out of requests, all of them; the first ones where every image costs."""
    return range(1, 17) if parameters <= _SMALL else range(1, 9)


def sizes_to_prove(parameters: int) -> tuple[int, ...]:
    """At which batches to prove a network of so many parameters."""
    return SIZES if parameters <= _SMALL else LARGE_SIZES


def batch_tolerance(model: onnx.ModelProto) -> float:
    """The largest relative error between a batch and its images, by the precision of the model."""
    reduced = any(tensor.data_type in _REDUCED_TYPES for tensor in model.graph.initializer)
    return REDUCED if reduced or any(node.op_type in _QUANTISED for node in model.graph.node) else TOLERANCE
