"""`Example`: a small model whose point is one operator, in float32 or in float64, converted to a module.

An example in float64 is the same graph with every float32 retyped: inputs, outputs, constants, the dtypes that
attributes name. Lowering then reads float64 everywhere, as it does of a file in float64. Where ONNX allows no float64,
the module of the float32 graph is turned by `.double()`, and with it each float32 that a lowering wrote into its calls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import fx

from ...converters.lowering.conversion import onnx_to_torch
from ...converters.lowering.values import torch_tensor
from ...converters.records.record import require_record
from ...errors import RtoolError

__all__ = ["Example", "as_double", "double_module_of", "module_of", "retyped", "with_weights"]

_DTYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype", "stash_type", "precision", "softmax_precision")


@dataclass(frozen=True)
class Example:
    """A model whose point is one operator, with its inputs by name in graph order; its floats are all float32, or all
    float64 (`as_double`).
    """

    operator: str
    name: str
    model: onnx.ModelProto
    inputs: dict[str, NDArray[Any]]

    @property
    def node(self) -> onnx.NodeProto:
        """The first node of that operator."""
        nodes: list[onnx.NodeProto] = [node for node in self.model.graph.node if node.op_type == self.operator]
        return nodes[0]


def as_double(example: Example) -> Example:
    """A float32 example in float64."""
    return retyped(example, TensorProto.FLOAT, TensorProto.DOUBLE)


def retyped(example: Example, before: int, after: int) -> Example:
    """The example with every float of the dtype `before` as one of `after`."""
    model = onnx.ModelProto()
    model.CopyFrom(example.model)
    _retype(model.graph, before, after)
    old, new = onnx.helper.tensor_dtype_to_np_dtype(before), onnx.helper.tensor_dtype_to_np_dtype(after)
    inputs = {name: a.astype(new) if a.dtype == old else a for name, a in example.inputs.items()}
    return replace(example, model=model, inputs=inputs)


def _retype(graph: onnx.GraphProto, before: int, after: int) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == before:
            value.type.tensor_type.elem_type = after
    for tensor in graph.initializer:
        _retype_tensor(tensor, before, after)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in _DTYPE_ATTRIBUTES and attribute.i == before:
                attribute.i = after
            elif attribute.HasField("t"):
                _retype_tensor(attribute.t, before, after)
            elif attribute.HasField("g"):
                _retype(attribute.g, before, after)


def _retype_tensor(tensor: onnx.TensorProto, before: int, after: int) -> None:
    if tensor.data_type == before:
        array = onnx.numpy_helper.to_array(tensor).astype(onnx.helper.tensor_dtype_to_np_dtype(after))
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def module_of(example: Example) -> tuple[fx.GraphModule, dict[str, torch.Tensor]] | None:
    """The converted module and its inputs by name; None where the conversion refuses."""
    try:
        module = onnx_to_torch(example.model)
    except RtoolError:
        return None
    types = {value.name: value.type.tensor_type.elem_type for value in example.model.graph.input}
    names = [spec.name for spec in require_record(module).inputs]
    tensors = {n: torch_tensor(ir.Tensor(np.asarray(example.inputs[n]), dtype=ir.DataType(types[n]))) for n in names}
    return module, tensors


def with_weights(example: Example) -> Example | None:
    """The example with every float input but the first as an initializer, as the weights of real files; None where it
    has no other.
    """
    _, *others = (name for name, array in example.inputs.items() if array.dtype.kind == "f")
    if not others:
        return None
    model = onnx.ModelProto()
    model.CopyFrom(example.model)
    for value in [value for value in model.graph.input if value.name in others]:
        model.graph.input.remove(value)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(example.inputs[name], name) for name in others)
    inputs = {name: array for name, array in example.inputs.items() if name not in others}
    return replace(example, name=f"{example.name}_weights", model=model, inputs=inputs)


def double_module_of(example: Example) -> tuple[fx.GraphModule, dict[str, torch.Tensor]] | None:
    """The module and the inputs of a float32 example in float64; None where the conversion refuses.

    An attribute of ONNX is a float32, which a module writes as its shortest decimal; here it is the float32 itself.
    """
    found = module_of(as_double(example))
    if found is None and (found := module_of(example)) is not None:
        module, tensors = found
        found = module.double(), {name: x.double() if x.dtype == torch.float32 else x for name, x in tensors.items()}
    if found is None:
        return None
    module, tensors = found
    for node in module.graph.nodes:
        node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), _in_double)
    module.recompile()
    for layer in module.modules():
        vars(layer).update({name: _in_double(value) for name, value in vars(layer).items() if type(value) is float})
    return module, tensors


def _in_double(argument: Any) -> Any:
    """float64 for float32 that a lowering wrote; a decimal that stands for a float32 as that float32."""
    if argument is torch.float32:
        return torch.float64
    if type(argument) is float and argument == float(str(np.float32(argument))):
        return float(np.float32(argument))
    return argument
