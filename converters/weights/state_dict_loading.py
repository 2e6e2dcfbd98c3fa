"""Loads a state_dict file into a module: the one function behind every `--weights` and `model.weights`.

A tensor is matched by name first, see `matching_by_name`; in a converted module then by equal values, and by shape
where nothing else is possible, see `matching_by_content`. The state_dict of the unfused original goes, by name, into a
module whose BatchNorms were restored, and is folded for one that is fused (`folded_loading`). Nothing is copied before
everything fits; what is missing or left over is reported, and refused unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx
import torch
from torch import Tensor, fx, nn

from ...errors import InputError, first_named
from ..records.record import record_of
from .folded_loading import fold_into
from .matching_by_content import match_shapes, match_values, sharing_shapes
from .matching_by_name import NamedPlaces, match_names
from .state_dict_files import StateDictFile, read_state_dict
from .state_dict_names import is_counter, names_of_module
from .weight_match import MatchedWeight, Matches, StateDictOrigin, WeightMatch, match_of, refuse_misfit
from .weight_targets import Targets

__all__ = [
    "MatchedWeight",
    "StateDictOrigin",
    "WeightMatch",
    "cancelled_biases",
    "is_unfused",
    "load_state_dict_file",
]


def load_state_dict_file(
    module: nn.Module,
    weights: str | Path | StateDictFile,
    *,
    may_lack: Callable[[str], bool] = lambda _: False,
    may_have_others: bool = False,
    way_out: str = "give the weights of this network",
    graph: onnx.GraphProto | None = None,
) -> WeightMatch:
    """Load a state_dict into `module`, in place.

    A bias before a restored BatchNorm that the file lacks becomes zero: BatchNorm subtracts it again.

    Args:
        module: any module; its tensors keep their dtype.
        weights: the file, or what `read_state_dict` made of it.
        may_lack: whether the tensor of this name keeps its value where the file lacks it.
        may_have_others: whether the file may have tensors that the module has no place for, such as a classifier's.
        way_out: how a message about a misfit ends.
        graph: the source graph, whose names and constants the file may have too.

    Raises:
        InputError: the file holds no state_dict, does not fit, has no tensor of the module, leaves open which tensor is
            which, or holds NaN or infinity.
    """
    state = _read(weights)
    if _is_fused(module) and is_unfused(module, state):
        assert isinstance(module, fx.GraphModule)
        load = partial(
            load_state_dict_file,
            weights=state,
            may_lack=may_lack,
            may_have_others=may_have_others,
            way_out=way_out,
        )
        folded = fold_into(module, load, state, may_have_others=may_have_others)
        if folded is not None:
            return folded
    targets = Targets.of(module, graph)
    optional = cancelled_biases(module)
    whole = [name for name in targets.weights if name not in optional]
    required = {name for name in whole if not may_lack(name)}
    matched, named, alike = _match(state, targets, required, whole)
    _refuse_torn_ties(state, targets, matched)
    _refuse_fused(module, state, matched)
    zero = {name for name in optional if name not in matched and f"{name[:-4]}weight" in matched}
    tied = {name for group in targets.tied for name in group if not matched.keys().isdisjoint(group)}
    expected = [name for name in targets.weights if name in matched or (name not in zero and name not in tied)]
    matched = {name: matched[name] for name in targets.own if name in matched}
    misshapen = {name: key for name, key in named.misshapen.items() if name not in matched}
    match = match_of(state, expected, matched, accounted=named.constants, removed=named.removed)
    refused = not required.isdisjoint(match.missing) or bool(misshapen) or (bool(match.unused) and not may_have_others)
    refuse_misfit(match, targets.own, state.tensors, misshapen, refused=refused, way_out=way_out, alike=alike)
    values = {name: _turned(state.tensors[place.key], place.turned) for name, place in matched.items()}
    changed = _copy(module, {**values, **{name: torch.zeros_like(targets.own[name]) for name in zero}}, state.path)
    return replace(match, changed=sum(name in matched for name in changed))


def _match(
    state: StateDictFile, targets: Targets, required: Collection[str], whole: Collection[str]
) -> tuple[Matches, NamedPlaces, tuple[Collection[str], Collection[str]]]:
    """The matches by every rule, what names tell, and the names and keys that only a guess by shape could match."""
    named = match_names(state, targets, required, whole)
    matched = named.matched
    if not targets.values:
        return matched, named, ((), ())
    counters = [name for name in targets.own if is_counter(name) and name not in matched]
    left = [*_unmatched(targets, matched, named.misshapen), *counters]
    matched = matched | match_values(targets, left, _left(state, matched, named.constants))
    left = _unmatched(targets, matched, named.misshapen)
    given = _left(state, matched, named.constants, named.misshapen.values())
    matched = matched | match_shapes(targets, left, given)
    left = _unmatched(targets, matched, named.misshapen)
    rest = _left(state, matched, named.constants, named.misshapen.values())
    return matched, named, sharing_shapes(targets, left, rest)


def is_unfused(module: nn.Module, weights: str | Path | StateDictFile) -> bool:
    """Whether the state_dict in a file has BatchNorms that `module` has not.

    Raises:
        InputError: the file holds no state_dict.
    """
    state, own = _read(weights), module.state_dict()
    names = names_of_module(state, own, own).tensors
    return any(name.endswith("running_mean") and name not in own for name in names)


def cancelled_biases(module: nn.Module) -> set[str]:
    """Biases of layers before a restored BatchNorm, which subtracts them again: no output depends on them."""
    record = record_of(module)
    return {f"{entry.after}.bias" for entry in record.restored} if record is not None else set()


def _read(weights: str | Path | StateDictFile) -> StateDictFile:
    return weights if isinstance(weights, StateDictFile) else read_state_dict(weights)


def _is_fused(module: nn.Module) -> bool:
    record = record_of(module)
    return record is not None and not record.restored


def _unmatched(targets: Targets, matched: Matches, misshapen: Mapping[str, str]) -> list[str]:
    """Names without a match; of tied names the first, where none has one."""
    tied = {name for group in targets.tied for name in group[1:]}
    tied |= {name for group in targets.tied for name in group if not matched.keys().isdisjoint(group)}
    return [name for name in targets.weights if name not in matched and name not in tied and name not in misshapen]


def _left(state: StateDictFile, matched: Matches, *others: Collection[str]) -> dict[str, Tensor]:
    """The tensors of the file that are neither matched nor among `others`."""
    used = {place.key for place in matched.values()}.union(*others)
    return {key: tensor for key, tensor in state.tensors.items() if key not in used and not is_counter(key)}


def _refuse_torn_ties(state: StateDictFile, targets: Targets, matched: Matches) -> None:
    """Refuse a file with two tensors for one of the network."""
    for group in targets.tied:
        places = [(name, matched[name]) for name in group if name in matched]
        values = [_turned(state.tensors[place.key], place.turned) for _, place in places]
        for (name, place), value in zip(places, values, strict=True):
            if not torch.equal(value.reshape(-1), values[0].reshape(-1)):
                raise InputError(
                    f"{state.path}: {places[0][1].key!r} and {place.key!r} differ, and {places[0][0]} and {name} are "
                    "one tensor of the network; give the weights of a network that shares it"
                )


def _refuse_fused(module: nn.Module, state: StateDictFile, matched: Matches) -> None:
    """Refuse fused weights for layers whose BatchNorms were restored: those would be applied to them once more."""
    record = record_of(module)
    for entry in record.restored if record is not None else ():
        own = {f"{entry.module}.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
        if f"{entry.after}.weight" in matched and matched.keys().isdisjoint(own):
            raise InputError(
                f"{state.path}: has {entry.after}.weight without the BatchNorm {entry.module} that was restored behind "
                "it, so it is of the fused network; convert the ONNX file with `rtool onnx2torch --restore-bn "
                f"--weights {state.path.name}`, which measures the BatchNorms for these weights"
            )


def _turned(tensor: Tensor, turned: bool) -> Tensor:
    return tensor.t() if turned else tensor


def _copy(module: nn.Module, values: Mapping[str, Tensor], file: Path) -> list[str]:
    """Copy `values` into the tensors of `module` that have their names, converted to the dtype of each.

    Returns:
        The names of those whose values are others now.

    Raises:
        InputError: one is not an array of floats, or holds NaN or infinity; nothing has been copied then.
    """
    own, ready, broken = module.state_dict(), {}, []
    for name, value in values.items():
        target = own[name]
        dense = value.layout == torch.strided and not value.is_quantized and not value.is_meta
        if not dense or (target.is_floating_point() and not value.is_floating_point()):
            kind = str(value.dtype if value.layout == torch.strided else value.layout).removeprefix("torch.")
            raise InputError(
                f"{file}: weight {name!r} is {kind}{' without data' if value.is_meta else ''}, and the network has "
                f"{str(target.dtype).removeprefix('torch.')}; give weights that are not quantised or sparse"
            )
        ready[name] = value.detach().reshape(target.shape).to(target.dtype)
        # a network that has infinity there, such as an attention mask, may be given one
        if not torch.isfinite(ready[name]).all() and (ready[name].isnan().any() or torch.isfinite(target).all()):
            broken.append(name)
    if broken:
        raise InputError(f"{file}: weight {first_named(broken)} holds NaN or infinity; give a sound file")
    negative = [name for name, value in ready.items() if name.endswith("running_var") and (value < 0).any()]
    if negative:
        raise InputError(f"{file}: weight {first_named(negative)} holds a negative variance; give a sound file")
    changed = [name for name, value in ready.items() if not torch.equal(own[name].cpu(), value)]
    with torch.no_grad():
        for name, value in ready.items():
            own[name].copy_(value)
    return changed
