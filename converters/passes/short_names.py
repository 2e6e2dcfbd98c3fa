"""Shorter names inside a graph whose weights have become so small that exporters' names outweigh them.

Names of inputs, outputs and the source's nodes stay: they are how people and block lists refer to a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
import onnx_ir as ir

__all__ = ["shorten_values", "shorten_weights"]


def shorten_values(model: ir.Model) -> None:
    """Name intermediate values t0, t1, ..., counted in base 36, in place."""
    interface = _interface(model)
    names = _free_names("t", model)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.name and value not in interface:
                value.name = next(names)


def shorten_weights(model: ir.Model) -> None:
    """Name the initializers of the main graph w0, w1, ..., counted in base 36, in place."""
    interface = _interface(model)
    names = _free_names("w", model)
    for value in list(model.graph.initializers.values()):
        if value not in interface:
            value.name = next(names)


def _interface(model: ir.Model) -> set[ir.Value]:
    return {value for graph in _graphs(model) for value in (*graph.inputs, *graph.outputs)}


def _free_names(prefix: str, model: ir.Model) -> Iterator[str]:
    taken = {value.name for value in _interface(model)}
    taken |= {name for graph in _graphs(model) for name in graph.initializers}
    return (name for name in (prefix + np.base_repr(index, 36).lower() for index in count()) if name not in taken)


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    yield model.graph
    yield from model.graph.subgraphs()
