"""The batch at which an opened model may be used: any, where that is proved; else the one it is right at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import InputError
from ..records.batch_proof import BatchProof, proof_of_bundle
from ..runtime.batches.batch_proof import TOLERANCE, BatchFinding, find_batch, held_batches
from ..runtime.batches.file_batch import batch_tolerance, find_file_batch, sizes_to_prove, stated_proof
from ..runtime.probes.given_probes import Probe
from ..runtime.runners import OnnxRunner, TorchRunner

if TYPE_CHECKING:
    from .reference import Model

__all__ = ["SettledBatch", "settle_batch", "settle_runner", "settled"]


@dataclass(frozen=True)
class SettledBatch:
    """What was decided about the batch of a model."""

    batch: int | None
    """The only batch that the model is right at; None for any."""
    proof: BatchProof | None = None
    note: str = ""
    """What people should know of it; "" where it is as the model declares."""


def settle_batch(model: Model, probes: Mapping[str, Probe] | None = None) -> SettledBatch:
    """The batch of a model reference; an open one is proved by running the module, unless a proof is recorded.

    An architecture of the zoo treats each image for itself by construction, so it is not run. `probes` are the values
    of single inputs, by name, in place of random ones.

    Raises:
        InputError: it declares an open batch, mixes images, and nothing tells at which batch it is right.
    """
    if model.batch is not None or model.kind == "zoo" or not model.inputs:
        return SettledBatch(model.batch)
    recorded = None
    if model.bundle is not None and model.path is not None:
        if model.record is None:
            return SettledBatch(None)
        recorded = proof_of_bundle(model.path, model.bundle.metadata)
    elif model.file is not None:
        recorded = stated_proof(model.file)
    if recorded is not None:
        return SettledBatch(None, recorded)
    graph = model.file.outline if model.file is not None else model.bundle.stripped if model.bundle else None
    held = set(held_batches(graph)) if graph is not None else set[int]()
    declared = next((spec.shape[0] for spec in model.inputs if spec.shape), None)
    held |= {declared} if isinstance(declared, int) else set()
    finding = find_batch(
        TorchRunner(model.module, inputs=model.inputs, name=model.name),
        sizes=sizes_to_prove(sum(parameter.numel() for parameter in model.module.parameters())),
        held=held,
        tolerance=batch_tolerance(graph) if graph is not None else TOLERANCE,
        probes=probes,
    )
    if isinstance(declared, int) and finding.is_wrong:  # the file claims no other
        return SettledBatch(declared)
    return settled(model.name, finding)


def settle_runner(runner: OnnxRunner, probes: Mapping[str, Probe] | None = None) -> SettledBatch:
    """The same for an ONNX file in ONNX Runtime.

    Raises:
        InputError: as `settle_batch`.
    """
    if runner.batch is not None or not runner.inputs:
        return SettledBatch(runner.batch)
    return settled(runner.name, find_file_batch(runner.file, runner, probes=probes))


def settled(name: str, finding: BatchFinding) -> SettledBatch:
    """What follows from a finding on the model `name`.

    Raises:
        InputError: as `settle_batch`.
    """
    if finding.proof is not None:
        return SettledBatch(None, finding.proof)
    note = f"{name}: {finding.describe()}"
    if finding.is_wrong and finding.right_at is None:
        raise InputError(f"{note}; export the network again, with a batch that is open or fixed throughout")
    return SettledBatch(finding.right_at, None, note)
