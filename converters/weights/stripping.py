"""Strip the weights from an ONNX proto and fill them in again, following a conversion's mapping.

A stripped weight keeps its name, type and shape, and names the place of its data as external data that no other tool
finds, so that a stripped graph can never be mistaken for a model. Only initializers and Constant nodes are
stripped; a parameter made from another node's output (a DequantizeLinear) is loaded from the weights file alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import onnx
import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor

from ...errors import InputError
from ..records.record import ParameterSource

__all__ = ["fill_weights", "inverse_transform", "strip_weights", "weight_tensors"]

_LOCATION = "weights.safetensors#"
DATA_FIELDS = ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data")


def strip_weights(proto: onnx.ModelProto, mapping: Mapping[str, ParameterSource]) -> onnx.ModelProto:
    """Remove from `proto`, in place, the data of every weight that `mapping` names; returns `proto`."""
    names = {source.value: parameter for parameter, source in reversed(list(mapping.items()))}
    for name, tensor in weight_tensors(proto.graph):
        if name not in names:
            continue
        for field in DATA_FIELDS:
            tensor.ClearField(field)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=_LOCATION + names[name])
    return proto


def fill_weights(
    proto: onnx.ModelProto,
    mapping: Mapping[str, ParameterSource],
    tensors: Mapping[str, torch.Tensor],
    label: str,
    *,
    largest: int | None = None,
) -> None:
    """Put the data of every stripped weight back into `proto`, in place; with `largest`, of those of so few elements.

    Raises:
        InputError: a weight is missing in `tensors` or has another shape or type.
    """
    for name, tensor in weight_tensors(proto.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        if largest is not None and math.prod(tensor.dims) > largest:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if not isinstance(location, str):  # protobuf gives bytes where the text is not UTF-8
            raise InputError(f"{label}: the location of weight '{name}' is not text; the file is damaged")
        parameter = location.removeprefix(_LOCATION)
        if parameter not in tensors or parameter not in mapping:
            raise InputError(
                f"{label}: weight '{name}' is in neither the graph nor the weights file; make the bundle again"
            )
        weight = inverse_transform(tensors[parameter], mapping[parameter], tuple(tensor.dims))
        data = TorchTensor(weight.contiguous()).tobytes()
        needed = _size(tensor, label)
        if len(data) != needed:
            raise InputError(f"{label}: weight '{name}' needs {needed} bytes, '{parameter}' has {len(data)}")
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = data


def inverse_transform(weight: torch.Tensor, source: ParameterSource, dims: tuple[int, ...]) -> torch.Tensor:
    """The source tensor, of shape `dims`, that a parameter was made from."""
    if source.transform == "transpose":
        return weight.t()
    return weight.reshape(dims) if source.transform == "reshape" else weight


def _size(tensor: onnx.TensorProto, label: str) -> int:
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        raise InputError(f"{label}: weight '{tensor.name}' has the unknown data type {tensor.data_type}") from None
    elements: int = math.prod(tensor.dims)
    return elements * dtype.bitwidth // 8


def weight_tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Weights by the name of their value: initializers, and the outputs of Constant nodes."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], attribute.t
