"""Inspect an ONNX model from its protobuf alone: nothing is converted or run, and no large weight is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from ...errors import RtoolError
from ..files.model_file import ModelFile
from ..graphs.graph_view import GraphView, tensor_specs_of
from ..preprocessing.decision import known_preprocessing
from ..preprocessing.evidence import evidence_of_view
from ..records.batch_proof import proof_of_file
from ..records.metadata import stated_folds
from ..records.provenance import ChainLink, chain_of_metadata
from ..records.record import ConversionRecord, TensorSpec, source_link
from ..zoo.architecture_guess import guess_architecture
from .absorbed_batchnorms import count_fused
from .graph_costs import Costs, graph_costs
from .inspection import UNPROVED, BatchNorms, Inspection, describe_proof
from .obstacles import obstacles
from .stored_weights import stored_weights

__all__ = ["inspect_graph"]


def inspect_graph(file: ModelFile, kind: str, size: int, *, name: str | None = None) -> Inspection:
    """Inspect the graph of a file or a bundle.

    Args:
        file: the model.
        kind: "onnx" or "bundle".
        size: its size on disk in bytes.
        name: what it is called; by default the file's name.

    Raises:
        InputError: the structure is malformed, or external data is missing or lies where a model may not look.
    """
    file.check()
    proto = file.proto(leave_large_external=True) if file.has_external_data else file.outline
    whole = GraphView(proto, file.name)
    inputs = tensor_specs_of(whole.inputs)
    operators = Counter(node.op_type for node in proto.graph.node)
    problems, places = list[str](), tuple[str, ...]()
    costs, architecture, view = Costs(None, None), None, whole
    try:
        view = GraphView.of(proto, file.name)
        problems += obstacles(view, file.label)
        architecture = guess_architecture(view.nodes, view.stored, operators)
        places = _fixed_batch(view)
        costs = graph_costs(view)
        file.check_unchanged()
    except RtoolError as error:
        problems.append(str(error))
    weights = stored_weights(view)
    found = known_preprocessing(evidence_of_view(view, file.label, file.metadata))
    return Inspection(
        name=name or file.name,
        kind=kind,
        size_bytes=size,
        sha256=file.source.sha256,
        producer=_producer(proto),
        ir_version=proto.ir_version,
        opsets=dict(view.opsets),
        inputs=inputs,
        outputs=tensor_specs_of(proto.graph.output),
        batch=_batch(inputs),
        fixed_batch_places=places,
        operators=dict(operators.most_common()),
        parameters=weights.parameters,
        buffers=weights.statistics,
        macs=costs.macs,
        activations=costs.activations,
        precision=weights.precision,
        batchnorms=BatchNorms(count_fused(view, stated_folds(file.metadata)), operators["BatchNormalization"]),
        preprocessing=None if isinstance(found, str) else found.preprocessing,
        preprocessing_origin=found if isinstance(found, str) else found.reason,
        architecture=architecture,
        problems=tuple(problems),
        chain=chain_of_metadata(file.metadata) or (_source_link(file),),
        quantised=weights.quantised,
        unread_inputs=tuple(spec.name for spec in inputs if spec.name not in whole.read_values),
        **_external(file.files[1:]),
        batch_proof=_proof(file) if kind == "onnx" else UNPROVED,
    )


def _proof(file: ModelFile) -> str:
    """What is said of the proof that the file states; none covers weights in other files."""
    return describe_proof(None if file.has_external_data else proof_of_file(file.content()))


def _external(data: Sequence[Path]) -> dict[str, Any]:
    """The fields of an inspection on external data."""
    return {
        "external_files": tuple(path.name for path in data),
        "external_bytes": sum(path.stat().st_size for path in data),
    }


def _producer(proto: onnx.ModelProto) -> str:
    return " ".join(filter(None, (proto.producer_name, proto.producer_version)))


def _source_link(file: ModelFile) -> ChainLink:
    """The first link of the chain, for a file that states no provenance."""
    opset = next((entry.version for entry in file.outline.opset_import if entry.domain in ("", "ai.onnx")), 0)
    return source_link(ConversionRecord(file.name, file.source.digest, opset, _producer(file.outline), (), ()))


def _batch(inputs: Sequence[TensorSpec]) -> int | str:
    first = inputs[0].shape if inputs else ()
    return first[0] if first and isinstance(first[0], int) else "dynamic"


def _fixed_batch(view: GraphView) -> tuple[str, ...]:
    """Graph inputs with a fixed batch, and nodes with that number in a constant shape."""
    specs = [spec for spec in tensor_specs_of(view.inputs) if len(spec.shape) > 1 and isinstance(spec.shape[0], int)]
    batches = {spec.shape[0] for spec in specs}
    places = [f"input '{spec.name}'" for spec in specs if spec.name in view.read_values]
    for node in view.nodes:
        target = node.input[1] if node.op_type in ("Reshape", "Expand") and len(node.input) > 1 else ""
        tensor = view.stored.get(view.origin(target))
        if tensor is None or not batches or tensor.data_type != onnx.TensorProto.INT64:
            continue
        shape = numpy_helper.to_array(tensor).reshape(-1).tolist()
        if len(shape) > 1 and shape[0] in batches:
            places.append(f"node '{node.name}' ({node.op_type} to {shape})")
    return tuple(places)
