"""Inspect a bundle that has a graph from its files alone, without torch: what it holds, and whether its files fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..bundles.bundle_info import (
    GRAPH,
    INFO,
    WEIGHTS,
    bundle_mapping,
    bundle_name,
    bundle_preprocessing,
    bundle_source,
    understood,
)
from ..bundles.weights_header import WeightsHeader
from ..files.model_file import ModelFile, parse_model
from ..graphs.graph_view import GraphView
from ..graphs.stripped_weights import put_back
from ..preprocessing.decision import known_preprocessing
from ..preprocessing.evidence import evidence_of_view
from ..records.batch_proof import proof_of_bundle
from ..records.provenance import chain_of_bundle
from .graph_inspection import inspect_graph
from .inspection import BatchNorms, Inspection, describe_proof

__all__ = ["inspect_stored_bundle"]

_CHANNELS = 3
"""Most channels of an image, so most numbers of a normalisation at the input."""
_NORM = ("weight", "bias", "running_mean", "running_var")
_MEAN, _COUNTER = ".running_mean", ".num_batches_tracked"
"""Of torch's BatchNorm, whose counter no graph states."""


def inspect_stored_bundle(folder: Path, info: Mapping[str, Any], buffers: Collection[str]) -> Inspection:
    """Inspect a bundle of a converted model.

    Args:
        folder: the bundle.
        info: its `bundle.json`.
        buffers: names of the tensors that are no parameters.

    Raises:
        InputError: its files are damaged, or do not fit together.
    """
    with WeightsHeader.opened(folder / WEIGHTS) as header:
        return _inspected(folder, info, buffers, header)


def _inspected(folder: Path, info: Mapping[str, Any], buffers: Collection[str], header: WeightsHeader) -> Inspection:
    restored = _restored(folder, info, header)
    mapping, name = bundle_mapping(folder, info), bundle_name(folder)
    with understood(folder / INFO):
        tied = {str(alias): str(first) for alias, first in info.get("tied", {}).items()}
    graph = parse_model(folder / GRAPH)

    def fill(largest: int | None) -> None:
        put_back(
            graph,
            mapping,
            lambda parameter, source, _: header.source_data(tied.get(parameter, parameter), source),
            str(folder),
            largest=largest,
        )

    fill(_CHANNELS)
    evidence = evidence_of_view(GraphView.of(graph, name), name, {})
    decision = known_preprocessing(evidence.stating(bundle_preprocessing(folder, info), "stored in the bundle"))
    fill(None)
    source = bundle_source(folder, info)
    size = sum(file.stat().st_size for file in folder.iterdir())
    found = inspect_graph(ModelFile.in_memory(graph, source), "bundle", size, name=folder.name)
    return replace(
        found,
        sha256=source.sha256,
        batch_proof=describe_proof(proof_of_bundle(folder, info)),
        parameters=sum(tensor.elements for name, tensor in header.tensors.items() if name not in buffers),
        buffers=sum(t.elements for name, t in header.tensors.items() if name in buffers and t.is_float),
        batchnorms=_norms(found.batchnorms, restored),
        chain=chain_of_bundle(info),
        preprocessing=None if isinstance(decision, str) else decision.preprocessing,
        preprocessing_origin=decision if isinstance(decision, str) else decision.reason,
    )


def _restored(folder: Path, info: Mapping[str, Any], header: WeightsHeader) -> int:
    """The number of restored BatchNorms; every tensor of the header has a place in the model."""
    with understood(folder / INFO):
        norms = [str(entry["module"]) for entry in info["restored"]]
        known = set(bundle_mapping(folder, info))
        tied = set(info.get("tied", {}))
    names = set(header.tensors) | tied
    needed = known | {f"{norm}.{part}" for norm in norms for part in _NORM}
    needed |= {f"{name.removesuffix(_MEAN)}{_COUNTER}" for name in needed if name.endswith(_MEAN)}
    missing, unexpected = needed - names, names - needed
    if missing or unexpected:
        raise InputError(
            f"{folder / WEIGHTS}: does not fit the graph: missing {sorted(missing)[:3]}, unexpected "
            f"{sorted(unexpected)[:3]}; the bundle's files come from different models"
        )
    return len(norms)


def _norms(found: BatchNorms | None, restored: int) -> BatchNorms | None:
    if found is None:
        return None
    return replace(found, restored=restored, fused=None if found.fused is None else max(found.fused - restored, 0))
