"""Shorten names inside a graph in reduced precision, where long names can take more bytes than the weights.

1. Intermediate values become t0, t1, ... and weights w0, w1, ..., counted in base 36.
2. Names of inputs, outputs and nodes stay: people and `keep` lists refer to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
import onnx_ir as ir

__all__ = ["shorten_values", "shorten_weights"]


def shorten_values(model: ir.Model) -> None:
    """Rename the outputs of all nodes to t0, t1, ..., in place; graph inputs and outputs keep their names."""
    interface = _interface(model)
    names = _free_names("t", model)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.name and value not in interface:
                value.name = next(names)


def shorten_weights(model: ir.Model) -> None:
    """Rename the initializers of the main graph to w0, w1, ..., in place; graph inputs and outputs keep their names."""
    interface = _interface(model)
    names = _free_names("w", model)
    for value in list(model.graph.initializers.values()):
        if value not in interface:
            value.name = next(names)


def _interface(model: ir.Model) -> set[ir.Value]:
    return {value for graph in _graphs(model) for value in (*graph.inputs, *graph.outputs)}


def _free_names(prefix: str, model: ir.Model) -> Iterator[str]:
    used = {value.name for value in _interface(model)}
    used |= {name for graph in _graphs(model) for name in graph.initializers}
    return (name for name in (prefix + np.base_repr(index, 36).lower() for index in count()) if name not in used)


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    yield model.graph
    yield from model.graph.subgraphs()
