"""Whether a converted module still computes what its source graph does, weights aside; write-back needs this.

A module may be edited like any `torch.fx.GraphModule`: layers added, replaced, called in another order. Its fx graph
is compared, node by node, with what it was when it was converted, or with that of a fresh conversion of the source.
"""

from __future__ import annotations

from torch import fx

from ...errors import first_named
from ..files.model_file import ModelFile
from ..lowering.conversion import onnx_to_torch
from ..records.graph_steps import GraphStep, first_difference, graph_steps
from ..records.record import require_record

__all__ = ["difference_from_conversion", "difference_from_source", "unplaced_parameter"]


def unplaced_parameter(module: fx.GraphModule) -> str:
    """A parameter that has no place in the source graph, or that `module` lacks, as a message; "" where none is."""
    record = require_record(module)
    restored = tuple(f"{entry.module}." for entry in record.restored)
    own = (name for name, _ in module.named_parameters() if not name.startswith(restored))
    added = [name for name in own if name not in record.parameters]
    if added:
        return f"the source graph has no place for {first_named(added)}"
    there = module.state_dict()
    missing = [name for name in record.parameters if name not in there]
    return f"the module no longer has {first_named(missing)}" if missing else ""


def difference_from_conversion(module: fx.GraphModule) -> str:
    """The first difference of `module` from its state after the conversion, weights aside; "" where there is none."""
    steps = require_record(module).steps
    return unplaced_parameter(module) or ("" if steps is None else first_difference(_steps(module), steps))


def difference_from_source(module: fx.GraphModule, source: ModelFile) -> str:
    """The first difference of `module` from a new conversion of `source`, weights aside; "" where there is none."""
    learned = require_record(module).learned
    return unplaced_parameter(module) or first_difference(
        _steps(module), _steps(onnx_to_torch(source, learned=learned))
    )


def _steps(module: fx.GraphModule) -> tuple[GraphStep, ...]:
    return graph_steps(module, {entry.module for entry in require_record(module).restored})
