"""Loads the state_dict of an unfused original into its fused module: BatchNorms of the file are folded on the way.

The BatchNorms are put behind the layers that an exporter fuses them into, under the names that `batchnorm_names` gives
them; the file is loaded by name into this copy, which is folded, and its tensors are the module's. Every BatchNorm of
the file must have found its layer, so that a name that follows no convention is refused, not guessed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import fx

from ...errors import InputError
from ..batchnorm.fold import fold_batchnorm
from ..batchnorm.fused_layers import fused_layers, named_batchnorms
from ..batchnorm.restore import EPS, insert_batchnorms
from .state_dict_files import StateDictFile
from .state_dict_names import names_of_module
from .weight_match import MatchedWeight, WeightMatch

__all__ = ["fold_into"]


def fold_into(
    module: fx.GraphModule,
    load: Callable[[fx.GraphModule], WeightMatch],
    state: StateDictFile,
    *,
    may_have_others: bool,
) -> WeightMatch | None:
    """Load the file into a copy of `module` with BatchNorms, fold them, and copy the result into `module`, in place.

    Args:
        module: a fused module with its record.
        load: loads the file into a module that has the BatchNorms.
        state: the file.
        may_have_others: whether the file may have BatchNorms of parts that the module lacks, such as a head.

    Returns:
        The report; None, and nothing is loaded, where no BatchNorm of the file lies behind a layer of `module`.

    Raises:
        InputError: a BatchNorm of the file is behind no layer, cannot be folded, or `load` refuses the file.
    """
    unfused = copy.deepcopy(module).eval()
    channels = _batchnorms(module, state)
    wanted = named_batchnorms(unfused, channels, eps=EPS)
    if not wanted:
        return None
    lost = [name for name in channels if name not in {place.module for place in wanted}]
    if may_have_others:  # a BatchNorm that no layer beside it can have lost is of another part
        rest = fused_layers(unfused, {}, None).keys() - {place.after for place in wanted}
        lost = [name for name in lost if name.rpartition(".")[0] in {path.rpartition(".")[0] for path in rest}]
    if lost:
        raise InputError(
            f"{state.path}: is of the unfused network, and {len(lost)} of its BatchNorms ({', '.join(lost[:3])}) lie "
            "behind no layer of the fused one by name, so they cannot be folded; fold them before saving"
        )
    insert_batchnorms(unfused, wanted)
    match = load(unfused)
    folds = fold_batchnorm(unfused, only={place.module for place in wanted})
    folded, own = unfused.state_dict(), module.state_dict()
    if folds.kept or not folded.keys() >= own.keys():
        what = f"{folds.kept[0].batchnorm!r} ({folds.kept[0].reason})" if folds.kept else "of a scaled product"
        raise InputError(f"{state.path}: its BatchNorm {what} cannot be folded; load it with --restore-bn")
    changed = [name for name, tensor in own.items() if not torch.equal(tensor, folded[name])]
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(folded[name])
    after = {place.after: place.module for place in wanted}
    matched = tuple(_described(entry, after) for entry in match.matched)
    return replace(match, matched=matched, changed=len(changed))


def _batchnorms(module: fx.GraphModule, state: StateDictFile) -> dict[str, int]:
    """Path of each BatchNorm of the file that `module` lacks -> its channels."""
    own, ending = module.state_dict(), ".running_mean"
    names = names_of_module(state, own, ()).tensors
    lacking = ((name, tensor) for name, tensor in names.items() if name.endswith(ending) and name not in own)
    return {name.removesuffix(ending): tensor.numel() for name, tensor in lacking}


def _described(entry: MatchedWeight, after: dict[str, str]) -> MatchedWeight:
    """The entry, with the layer that it was folded into in its place."""
    owner = entry.target.rpartition(".")[0]
    is_folded = owner in after or owner in after.values()
    return replace(entry, how="name, BatchNorm folded") if is_folded else entry
