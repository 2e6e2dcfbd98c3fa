"""The weights that a bundle's graph lacks: which they are, and how they are put back; read without torch.

A stripped weight keeps its name, type and shape, and names the place of its data as external data that no other tool
finds, so that a stripped graph can never be mistaken for a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import onnx

from ...errors import InputError
from ..files.element_types import bits_of
from ..records.record import ParameterSource

__all__ = ["LOCATION", "put_back", "weight_tensors"]

LOCATION = "weights.safetensors#"
"""Before the name of the parameter, as the location of a stripped weight."""


def put_back(
    proto: onnx.ModelProto,
    mapping: Mapping[str, ParameterSource],
    data_of: Callable[[str, ParameterSource, tuple[int, ...]], bytes | None],
    label: str,
    *,
    largest: int | None = None,
) -> None:
    """Put the data of every stripped weight into `proto`, in place; with `largest`, of those of so few elements.

    Args:
        proto: a graph that `strip_weights` made.
        mapping: parameter -> the value of the graph that it was made from.
        data_of: little-endian bytes of a parameter in the source's axes, by its name, source and the weight's shape;
            None where there is no such parameter.
        label: the bundle, for messages.
        largest: elements of the largest weight that is put back.

    Raises:
        InputError: a weight is missing or has another shape or type.
    """
    for name, tensor in weight_tensors(proto.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        if largest is not None and math.prod(tensor.dims) > largest:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if not isinstance(location, str):  # protobuf gives bytes where the text is not UTF-8
            raise InputError(f"{label}: the location of weight '{name}' is not text; the file is damaged")
        parameter = location.removeprefix(LOCATION)
        source = mapping.get(parameter)
        data = None if source is None else data_of(parameter, source, tuple(tensor.dims))
        if data is None:
            raise InputError(
                f"{label}: weight '{name}' is in neither the graph nor the weights file; make the bundle again"
            )
        needed = _size(tensor, label)
        if len(data) != needed:
            raise InputError(f"{label}: weight '{name}' needs {needed} bytes, '{parameter}' has {len(data)}")
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = data


def weight_tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Weights by the name of their value: initializers, and the outputs of Constant nodes."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], attribute.t


def _size(tensor: onnx.TensorProto, label: str) -> int:
    try:
        return int(math.prod(tensor.dims)) * bits_of(tensor.data_type) // 8
    except ValueError:
        raise InputError(f"{label}: weight '{tensor.name}' has the unknown data type {tensor.data_type}") from None
