"""Strip the weights from an ONNX proto and fill them in again, following a conversion's mapping.

Only initializers and Constant nodes are stripped; a parameter made from another node's output (a DequantizeLinear) is
loaded from the weights file alone. What a stripped weight looks like, `stripped_weights` says.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch
from onnx_ir.tensor_adapters import TorchTensor

from ..graphs.stripped_weights import LOCATION, put_back, weight_tensors
from ..records.record import ParameterSource

__all__ = ["DATA_FIELDS", "fill_weights", "inverse_transform", "strip_weights"]

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
        tensor.external_data.add(key="location", value=LOCATION + names[name])
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

    def data_of(parameter: str, source: ParameterSource, dims: tuple[int, ...]) -> bytes | None:
        found = tensors.get(parameter)
        return None if found is None else TorchTensor(inverse_transform(found, source, dims).contiguous()).tobytes()

    put_back(proto, mapping, data_of, label, largest=largest)


def inverse_transform(weight: torch.Tensor, source: ParameterSource, dims: tuple[int, ...]) -> torch.Tensor:
    """The source tensor, of shape `dims`, that a parameter was made from."""
    if source.transform == "transpose":
        return weight.t()
    return weight.reshape(dims) if source.transform == "reshape" else weight
