"""A model's outputs in float64, so that the rounding of float32 kernels is out of the question.

An ONNX graph is computed by onnx's reference evaluator, which shares no code with ONNX Runtime, torch or the lowering;
a torch module by torch itself. Both are many times slower than what they check.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...errors import InputError
from .reference_runner import ReferenceRunner
from .runners import OnnxRunner, Runner, TorchRunner, run_in_batches

if TYPE_CHECKING:
    from torch import nn

__all__ = ["exact_outputs", "in_double"]

_FLOAT, _DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
_DTYPE_ATTRIBUTES = {"Cast": "to", "EyeLike": "dtype", "RandomUniformLike": "dtype", "RandomNormalLike": "dtype"}


def exact_outputs(
    runner: Runner, arrays: Sequence[NDArray[Any]], *, batch: int | None = None
) -> tuple[NDArray[Any], ...] | None:
    """All outputs of the model behind `runner` in float64, in graph order; None where that cannot be computed.

    Args:
        runner: the model; a served one is not at hand, so it gives None.
        arrays: as for `Runner.run`.
        batch: how many rows to compute at a time, as in `run_in_batches`; by default all in one run.
    """
    double = _DoubleRunner(runner)
    try:
        return double.run(*arrays) if batch is None else run_in_batches(double, arrays, batch)
    except Exception:  # the reference evaluator raises any type, and torch where a dtype is written into the code
        return None


class _DoubleRunner:
    """The model of another runner, in float64."""

    def __init__(self, runner: Runner) -> None:
        self._runner: Runner = getattr(runner, "runner", runner)  # what computes, inside a runner that may change it
        self.name, self.batch = runner.name, runner.batch
        self.inputs, self.outputs = runner.inputs, runner.outputs

    def run(self, *arrays: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """All outputs for one batch.

        Raises:
            InputError: the model is not at hand.
        """
        if isinstance(self._runner, OnnxRunner | ReferenceRunner):
            return _of_graph(self._runner, arrays)
        if isinstance(self._runner, TorchRunner):
            return _of_module(self._runner.module, arrays)
        raise InputError(f"{self.name}: is computed elsewhere")


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` whose float32 weights, constants, casts, inputs and outputs are float64."""
    double = onnx.ModelProto()
    double.CopyFrom(model)
    del double.graph.value_info[:]
    for value in (*double.graph.input, *double.graph.output):
        if value.type.tensor_type.elem_type == _FLOAT:
            value.type.tensor_type.elem_type = _DOUBLE
    for graph in _graphs(double.graph):
        for tensor in graph.initializer:
            _widen(tensor)
        _widen_nodes(graph.node)
    for function in double.functions:
        _widen_nodes(function.node)
        for node in function.node:
            for body in _bodies(node):
                for graph in _graphs(body):
                    _widen_nodes(graph.node)
    return double


def _of_graph(runner: OnnxRunner | ReferenceRunner, arrays: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    from ..reference.evaluator import reference_evaluator

    evaluator = reference_evaluator(in_double(runner.file.proto()))
    feed = {spec.name: _wide(array) for spec, array in zip(runner.inputs, arrays, strict=True)}
    with np.errstate(all="ignore"):
        return tuple(np.asarray(output) for output in evaluator.run(None, feed))


def _of_module(module: nn.Module, arrays: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    import torch
    from torch import fx
    from torch.overrides import TorchFunctionMode
    from torch.utils._pytree import tree_map

    class Widened(TorchFunctionMode):
        """What the code asks for in float32 is made in float64."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            func = torch.Tensor.double if func is torch.Tensor.float else func
            given = tree_map(lambda item: torch.float64 if item is torch.float32 else item, (args, kwargs or {}))
            return func(*given[0], **given[1])

    twin = copy.deepcopy(module).cpu().double().eval()
    call = twin.forward if isinstance(twin, fx.GraphModule) else twin
    with torch.inference_mode(), Widened():
        result = call(*(torch.from_numpy(np.ascontiguousarray(_wide(array))) for array in arrays))
    return tuple(tensor.numpy() for tensor in (result if isinstance(result, tuple | list) else (result,)))


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float64) if array.dtype == np.float32 else array


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == _FLOAT:
        wide = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))


def _widen_nodes(nodes: Sequence[onnx.NodeProto]) -> None:
    for node in nodes:
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(np.zeros(1))))
        for attribute in node.attribute:
            if attribute.name in ("value_float", "value_floats") and node.op_type == "Constant":
                number = attribute.f if attribute.name == "value_float" else list(attribute.floats)
                tensor = onnx.numpy_helper.from_array(np.array(number, dtype=np.float64))
                attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))
            elif attribute.type == onnx.AttributeProto.TENSOR:
                _widen(attribute.t)
            elif attribute.name == _DTYPE_ATTRIBUTES.get(node.op_type) and attribute.i == _FLOAT:
                attribute.i = _DOUBLE


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the graphs in the attributes of its nodes."""
    yield graph
    for node in graph.node:
        for body in _bodies(node):
            yield from _graphs(body)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs
