"""Inspect an ONNX model from its protobuf alone: nothing is converted or run, and no large weight is read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx
from onnx import numpy_helper

from ...errors import RtoolError
from ..files.model_file import ModelFile
from ..records.batch_proof import proof_of_file
from ..records.input_scaling import SCALING_OPERATORS, ScalingStep, mean_and_std, preprocessing_outside, scaling_step
from ..records.metadata import stated_folds
from ..records.preprocessing_guess import FoundPreprocessing, find_preprocessing
from ..records.provenance import ChainLink, chain_of_metadata
from ..records.record import ConversionRecord, TensorSpec, source_link
from ..zoo.architecture_guess import guess_architecture
from .fused_layers import count_fused
from .graph_costs import Costs, graph_costs
from .graph_view import GraphView, tensor_specs_of
from .inspection import BatchNorms, Inspection, describe_proof
from .obstacles import obstacles
from .stored_weights import stored_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    weights, data = stored_weights(view), file.files[1:]
    found = _preprocessing(view, inputs, file.metadata)
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
        preprocessing=found.preprocessing if found else None,
        preprocessing_origin=found.origin if found else _origin_in_graph(inputs),
        architecture=architecture,
        problems=tuple(problems),
        chain=chain_of_metadata(file.metadata) or (_source_link(file),),
        quantised=weights.quantised,
        unread_inputs=tuple(spec.name for spec in inputs if spec.name not in whole.read_values),
        external_files=tuple(path.name for path in data),
        external_bytes=sum(path.stat().st_size for path in data),
        batch_proof=describe_proof(None if data or kind != "onnx" else proof_of_file(file.content())),
    )


def _producer(proto: onnx.ModelProto) -> str:
    return " ".join(filter(None, (proto.producer_name, proto.producer_version)))


def _source_link(file: ModelFile) -> ChainLink:
    """The first link of the chain, for a file that states no provenance."""
    opset = next((entry.version for entry in file.outline.opset_import if entry.domain in ("", "ai.onnx")), 0)
    return source_link(ConversionRecord(file.name, file.source.digest, opset, _producer(file.outline), (), ()))


def _origin_in_graph(inputs: Sequence[TensorSpec]) -> str | None:
    """Where the preprocessing is, for a graph that takes pixels; None for others."""
    pixels = len(inputs) == 1 and inputs[0].dtype == "uint8"
    return "in the graph, which takes uint8 pixels" if pixels else None


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


def _preprocessing(
    view: GraphView, inputs: Sequence[TensorSpec], metadata: Mapping[str, str]
) -> FoundPreprocessing | None:
    """What the file states, else what its graph does to pixels itself, else a guess from its input."""
    found = find_preprocessing(inputs, metadata)
    if found is not None and not found.is_guess:
        return found
    shape = inputs[0].shape if len(inputs) == 1 else ()
    if len(shape) != 4 or not isinstance(shape[1], int):
        return found
    scaled = mean_and_std(_steps(view, inputs[0].name, shape[1]), shape[1])
    height, width = shape[2:]
    if scaled is None or not isinstance(height, int) or not isinstance(width, int):
        return found
    return preprocessing_outside(*scaled, height, width)


def _steps(view: GraphView, value: str, channels: int) -> Sequence[ScalingStep]:
    """One step from the image on, or two of different kinds."""
    steps: list[ScalingStep] = []
    while len(steps) < 2:
        readers = [node for node in view.nodes if value in node.input]
        if len(readers) != 1 or readers[0].op_type not in SCALING_OPERATORS:
            break
        node = readers[0]
        index = list(node.input).index(value)
        tensor = view.stored.get(node.input[1 - index])
        if tensor is None or math.prod(tensor.dims) not in (1, channels):
            break
        step = scaling_step(node.op_type, numpy_helper.to_array(tensor), channels, constant_first=index == 1)
        if step is None or (steps and steps[0].adds == step.adds):
            break
        steps.append(step)
        value = node.output[0]
    return steps
