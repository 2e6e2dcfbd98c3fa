"""Every tensor that an ONNX file stores, wherever the format lets one be: the walk that external data is found by.

A reader that looks at the initializers of the graph alone misses the others: weights of branches and loop bodies,
Constants and other attributes (dense, sparse, lists of either), the bodies and defaults of functions, training graphs.
The walk follows the fields that are set, not the type an attribute claims, since each reader trusts another of the two.

Source: onnx.proto of ONNX 1.23 (messages ModelProto, GraphProto, FunctionProto, NodeProto, AttributeProto).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx

from ...errors import InputError

__all__ = ["StoredTensor", "refuse_sparse", "stored_tensors"]

_WITH_TENSORS = frozenset({"t", "sparse_tensor", "g", "tensors", "sparse_tensors", "graphs"})
"""Fields of an AttributeProto that hold tensors, or graphs with tensors in them."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor and where it is."""

    label: str
    """For messages: the file, the node if any, and the tensor's own name."""
    tensor: onnx.TensorProto
    weight: str | None
    """The name of the initializer of the main graph that it is; None for every other one."""
    is_sparse: bool = False
    """Whether it is one half of a sparse tensor."""

    @property
    def is_external(self) -> bool:
        """Whether its data lies in another file."""
        return bool(self.tensor.data_location == onnx.TensorProto.EXTERNAL)


def stored_tensors(model: onnx.ModelProto, name: str) -> Iterator[StoredTensor]:
    """All tensors of `model`, which messages call `name`; nothing is read from a file."""
    pending: list[tuple[str, onnx.GraphProto | onnx.FunctionProto]] = [(name, model.graph)]
    for function in model.functions:
        pending.append((f"{name}: function '{function.domain}::{function.name}'", function))
    for info in model.training_info:
        pending += [(f"{name}: training", info.initialization), (f"{name}: training", info.algorithm)]
    is_main = True
    while pending:  # not a recursion: graphs may be nested deeper than Python's stack
        place, graph = pending.pop(0)
        if isinstance(graph, onnx.GraphProto):
            yield from _initializers(graph, place, is_main=is_main)
        else:
            yield from _attributes(graph.attribute_proto, f"{place}: default of", pending)
        for node in graph.node:
            label = f"{place}: node '{node.name or (node.output[0] if node.output else '')}' ({node.op_type})"
            yield from _attributes(node.attribute, f"{label}: attribute", pending)
        is_main = False


def refuse_sparse(tensors: Iterable[StoredTensor]) -> None:
    """Refuse what the intermediate representation cannot hold, or would drop silently.

    Raises:
        InputError: one of `tensors` is sparse.
    """
    for stored in tensors:
        if stored.is_sparse:
            place = stored.label.removesuffix(", values")
            raise InputError(f"{place}: sparse tensors are not supported; export the model with dense weights")


def _initializers(graph: onnx.GraphProto, place: str, *, is_main: bool) -> Iterator[StoredTensor]:
    for tensor in graph.initializer:
        yield StoredTensor(f"{place}: initializer '{tensor.name}'", tensor, str(tensor.name) if is_main else None)
    for sparse in graph.sparse_initializer:
        yield from _sparse(sparse, f"{place}: sparse initializer '{sparse.values.name}'")


def _attributes(
    attributes: Iterable[onnx.AttributeProto],
    prefix: str,
    pending: list[tuple[str, onnx.GraphProto | onnx.FunctionProto]],
) -> Iterator[StoredTensor]:
    """The tensors in attributes; graphs in them are added to `pending`."""
    for attribute in attributes:
        for field, value in attribute.ListFields():
            if field.name not in _WITH_TENSORS:
                continue
            label = f"{prefix} '{attribute.name}'"
            if field.name == "t":
                yield StoredTensor(label, value, None)
            elif field.name == "sparse_tensor":
                yield from _sparse(value, label)
            elif field.name == "g":
                pending.append((label, value))
            elif field.name == "tensors":
                yield from (StoredTensor(f"{label}[{index}]", tensor, None) for index, tensor in enumerate(value))
            elif field.name == "sparse_tensors":
                for index, sparse in enumerate(value):
                    yield from _sparse(sparse, f"{label}[{index}]")
            elif field.name == "graphs":
                pending += [(f"{label}[{index}]", graph) for index, graph in enumerate(value)]


def _sparse(sparse: onnx.SparseTensorProto, label: str) -> Iterator[StoredTensor]:
    yield StoredTensor(f"{label}, values", sparse.values, None, is_sparse=True)
    yield StoredTensor(f"{label}, indices", sparse.indices, None, is_sparse=True)
