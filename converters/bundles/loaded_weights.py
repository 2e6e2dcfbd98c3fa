"""Weights from a file over those of an opened model, and what that changed: measured, not assumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from torch import nn

from ...errors import InputError
from ..records.provenance import ChainLink
from ..records.record import TensorSpec
from ..runtime.nonsense import not_finite
from ..runtime.parity import measure_parity
from ..runtime.probes.probing import probe_inputs
from ..runtime.runners import TorchRunner
from ..weights.state_dict_files import StateDictFile, read_state_dict
from ..weights.state_dict_loading import load_state_dict_file
from ..weights.weight_match import WeightMatch

__all__ = ["load_and_measure", "refuse_broken_outputs", "weights_link"]

_ROWS = 2
"""Random inputs that a change is measured on; a wrong tensor shows on any input."""


def load_and_measure(
    module: nn.Module,
    weights: str | Path | StateDictFile,
    *,
    inputs: Sequence[TensorSpec] = (),
    batch: int | None = None,
    graph: onnx.GraphProto | None = None,
    fresh: bool = False,
    may_lack: Callable[[str], bool] = lambda _: False,
    may_have_others: bool = False,
    way_out: str = "give the weights of this network",
) -> WeightMatch:
    """Load a state_dict into `module`, in place, and measure how far its outputs are from what they were.

    Args:
        module: any module.
        weights: the file, or what `read_state_dict` made of it.
        inputs: the module's inputs; without them nothing is measured.
        batch: the only batch it supports; None where it supports any.
        graph: the source graph, whose constants the file may have too.
        fresh: whether the module has random weights, from which a difference says nothing.
        may_lack, may_have_others, way_out: as `load_state_dict_file`.

    Raises:
        InputError: as `load_state_dict_file`.
    """
    state = weights if isinstance(weights, StateDictFile) else read_state_dict(weights)
    before = None if fresh else _outputs(module, inputs, batch)
    match = load_state_dict_file(
        module,
        state,
        may_lack=may_lack,
        may_have_others=may_have_others,
        way_out=way_out,
        graph=graph,
    )
    after = None if before is None else _outputs(module, inputs, batch)
    if before is None or after is None:
        return match
    refuse_broken_outputs(match, before, after)
    return replace(match, difference=measure_parity(before, after))


def refuse_broken_outputs(match: WeightMatch, before: Sequence[NDArray[Any]], after: Sequence[NDArray[Any]]) -> None:
    """Refuse weights with which outputs that were finite no longer are.

    Raises:
        InputError: naming the file.
    """
    broken = not_finite(after, ())
    if broken and not not_finite(before, ()):
        raise InputError(f"{match.origin.file}: with its weights {broken[0]}; each is finite, give sound ones")


def weights_link(match: WeightMatch, *, unfused: bool = False) -> ChainLink:
    """The link of loaded weights in the provenance of a model."""
    name = Path(match.origin.file).name
    facts = {"file": name, "sha256": match.origin.sha256, "unfused": unfused, "rules": match.rules}
    return ChainLink("weights", f"{len(match.matched)} tensors of {name}", facts)


def _outputs(module: nn.Module, inputs: Sequence[TensorSpec], batch: int | None) -> tuple[NDArray[Any], ...] | None:
    """The outputs on seeded random inputs; None where their sizes are not known or the module does not take them."""
    if not inputs:
        return None
    try:
        return TorchRunner(module).run(*probe_inputs(inputs, batch or _ROWS))
    except InputError:
        return None
