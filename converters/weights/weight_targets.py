"""What a state_dict file may fill: a module's tensors, their names in its source graph, and that graph's constants.

A wrapper that registers every initializer of an ONNX file as a parameter saves initializer names, in the layout that
the graph has, and with them constants that are not weights (shapes, bounds). `Targets` knows all of these.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx
import torch
from torch import Tensor, nn

from ..graphs.stripped_weights import weight_tensors
from ..records.record import record_of
from .state_dict_names import is_counter
from .stripping import DATA_FIELDS
from .weight_readers import stored_origins

__all__ = ["Layout", "Targets", "long_axes"]

Layout = Literal["module", "graph"]
"""Which axes a matrix has: [outputs, inputs] as torch keeps it, or [inputs, outputs] as MatMul reads it."""


@dataclass(frozen=True)
class Targets:
    """The tensors of a module that a file may fill."""

    own: Mapping[str, Tensor]
    """By name; counters of BatchNorms are among them, but no file needs them."""
    values: Mapping[str, str]
    """Name of a tensor -> name of the value of the source graph that it was made from; empty without such a graph."""
    origins: Mapping[str, str]
    """The same -> the stored weight behind that value, which exporters share between equal weights by Identity."""
    turned: frozenset[str]
    """Matrices that the source graph has transposed."""
    constants: Mapping[str, Tensor]
    """Other tensors of the source graph, by name; they are not weights and cannot change."""
    tied: tuple[tuple[str, ...], ...]
    """Groups of names that share one tensor."""

    @classmethod
    def of(cls, module: nn.Module, graph: onnx.GraphProto | None = None) -> Targets:
        """The targets in `module`, and the constants in `graph`, its source.

        A module with restored BatchNorms is filled by its own names alone: its layers are no longer the graph's.
        """
        own = module.state_dict()
        record = record_of(module)
        sources = {} if record is None or record.restored else record.parameters
        stored = {} if graph is None else stored_origins(graph)
        values = {name: source.value for name, source in sources.items() if name in own}
        groups: dict[tuple[int, torch.Size], list[str]] = {}
        for name, tensor in own.items():
            if tensor.numel() and not is_counter(name):
                groups.setdefault((tensor.data_ptr(), tensor.shape), []).append(name)
        return cls(
            own=own,
            values=values,
            origins={name: stored.get(value, value) for name, value in values.items()},
            turned=frozenset(name for name, source in sources.items() if source.transform == "transpose"),
            constants=_constants(graph, {stored.get(value, value) for value in values.values()}) if sources else {},
            tied=tuple(tuple(names) for names in groups.values() if len(names) > 1),
        )

    @property
    def weights(self) -> list[str]:
        """The names of all but counters."""
        return [name for name in self.own if not is_counter(name)]

    def layouts(self, name: str, tensor: Tensor) -> frozenset[Layout]:
        """The layouts in which `tensor` can be the target `name`; both for a square matrix that the graph turns."""
        own = self.own[name]
        found: set[Layout] = {"module"} if long_axes(tensor) == long_axes(own) else set()
        if name in self.turned and tensor.ndim == 2 and tensor.shape == own.shape[::-1] and 1 not in tensor.shape:
            found.add("graph")
        return frozenset(found)


def _constants(graph: onnx.GraphProto | None, weights: Collection[str]) -> dict[str, Tensor]:
    """The small tensors in `graph` beside `weights`, by name."""
    found = {}
    for name, tensor in () if graph is None else weight_tensors(graph):
        stored = any(len(getattr(tensor, field)) for field in DATA_FIELDS) or 0 in tensor.dims
        if name not in weights and stored and tensor.data_location != onnx.TensorProto.EXTERNAL:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype.kind in "fiub":
                found[name] = torch.from_numpy(array.copy())
    return found


def long_axes(tensor: Tensor) -> tuple[int, ...]:
    """The shape without axes of length 1: slopes are [C] or [C, 1, 1], but [N, K] is not [K, N]."""
    return tuple(size for size in tensor.shape if size != 1)
