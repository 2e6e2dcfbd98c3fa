"""Copies a state_dict file into a module: by name, or for a fused network also by unique shape and order.

`onnx2torch --weights` and `model.weights` of a fine-tuning run both load through here, so they read the same files and
refuse them in the same words. The fused `.pth` that training code saves beside its graph goes into the converted
module; the state_dict of the unfused original goes, by name, into a module whose BatchNorms were restored. Nothing is
copied before everything fits; a partial match is refused unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..records.record import record_of
from .state_dict_files import StateDictFile, read_state_dict
from .state_dict_names import is_counter, names_of_module
from .weight_match import MatchedWeight, Matches, StateDictOrigin, WeightMatch, match_of, refuse_misfit

__all__ = [
    "MatchedWeight",
    "StateDictOrigin",
    "WeightMatch",
    "cancelled_biases",
    "is_unfused",
    "load_fused_weights",
    "load_named_weights",
    "load_unfused_weights",
]


def load_fused_weights(
    module: nn.Module, weights: str | Path | StateDictFile, *, allow_partial: bool = False
) -> WeightMatch:
    """Load the state_dict of a fused network into its converted module, in place.

    A tensor is matched by its name; those left are matched in order where file and module have equally many of a shape.

    Args:
        module: from `onnx_to_torch`; its tensors keep their dtype.
        weights: the file, or what `read_state_dict` made of it.
        allow_partial: accept a file that lacks tensors of the module, or has others.

    Raises:
        InputError: the file holds no state_dict, does not fill the module completely and `allow_partial` is off, has no
            tensor of it, or holds NaN or infinity.
    """
    state = _read(weights)
    own = {name: tensor for name, tensor in module.state_dict().items() if not is_counter(name)}
    named = names_of_module(state, own, own)
    matched, misshapen = _match_fused(own, named.tensors)
    way_out = "give the weights of this graph, or --allow-partial"
    match = match_of(state, named, own, matched)
    refused = bool(match.missing or match.unused) and not allow_partial
    refuse_misfit(match, own, named, misshapen, refused=refused, way_out=way_out)
    _copy(module, {target: named.tensors[name] for target, (name, _) in matched.items()}, state.path)
    return match


def is_unfused(module: nn.Module, weights: str | Path | StateDictFile) -> bool:
    """Whether the state_dict in a file has BatchNorms that `module` has not.

    Raises:
        InputError: the file holds no state_dict.
    """
    state, own = _read(weights), module.state_dict()
    names = names_of_module(state, own, own).tensors
    return any(name.endswith("running_mean") and name not in own for name in names)


def load_unfused_weights(
    module: nn.Module, weights: str | Path | StateDictFile, *, allow_partial: bool = False
) -> WeightMatch:
    """Load the state_dict of the original network into `module`, which has its BatchNorms back, by name, in place.

    A bias that a layer got from fusing and the original lacks becomes zero.

    Args:
        module: from `onnx_to_torch`, after `restore_batchnorm`.
        weights: the file, or what `read_state_dict` made of it.
        allow_partial: accept a file that lacks tensors of the module, or has others.

    Raises:
        InputError: the file holds no state_dict, does not fill the module completely and `allow_partial` is off, has
            tensors of another shape or none of the module, or holds NaN or infinity.
    """
    return load_named_weights(
        module,
        weights,
        may_lack=lambda _: allow_partial,
        may_have_others=allow_partial,
        way_out="give the weights of the network this file was exported from, or --allow-partial",
    )


def load_named_weights(
    module: nn.Module,
    weights: str | Path | StateDictFile,
    *,
    may_lack: Callable[[str], bool],
    may_have_others: bool,
    way_out: str,
) -> WeightMatch:
    """Load a state_dict into `module` by name, in place.

    A bias before a restored BatchNorm that the file lacks becomes zero: BatchNorm subtracts it again.

    Args:
        module: any module; its tensors keep their dtype.
        weights: the file, or what `read_state_dict` made of it.
        may_lack: whether the tensor of this name keeps its value where the file lacks it.
        may_have_others: whether the file may have tensors that the module has no place for, such as a classifier's.
        way_out: how a message about a misfit ends.

    Raises:
        InputError: the file holds no state_dict, does not fit, has no tensor of the module, or holds NaN or infinity.
    """
    state, own = _read(weights), module.state_dict()
    optional = cancelled_biases(module)
    required = {name for name in own if not (is_counter(name) or name in optional or may_lack(name))}
    named = names_of_module(state, own, required)
    misshapen = [name for name in own if name in named.tensors and named.tensors[name].shape != own[name].shape]
    matched: Matches = {name: (name, "name") for name in own if name in named.tensors and name not in misshapen}
    zero = {name for name in optional if name not in named.tensors and f"{name[:-4]}weight" in matched}
    match = match_of(state, named, [name for name in own if name not in zero and not is_counter(name)], matched)
    refused = not required.isdisjoint(match.missing) or bool(misshapen) or (bool(match.unused) and not may_have_others)
    refuse_misfit(match, own, named, misshapen, refused=refused, way_out=way_out)
    values = {target: named.tensors[target] for target in matched}
    _copy(module, {**values, **{name: torch.zeros_like(own[name]) for name in zero}}, state.path)
    return match


def _read(weights: str | Path | StateDictFile) -> StateDictFile:
    return weights if isinstance(weights, StateDictFile) else read_state_dict(weights)


def cancelled_biases(module: nn.Module) -> set[str]:
    """Biases of layers before a restored BatchNorm, which subtracts them again: no output depends on them."""
    record = record_of(module)
    return {f"{entry.after}.bias" for entry in record.restored} if record is not None else set()


def _match_fused(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[Matches, list[str]]:
    """By name of the module, the name in the file and how it was found; and names whose shapes differ."""
    same = [name for name in own if name in state]
    misshapen = [name for name in same if _long_axes(state[name]) != _long_axes(own[name])]
    matched: Matches = {name: (name, "name") for name in same if name not in misshapen}
    left, free = _by_shape(own, matched.keys()), _by_shape(state, matched.keys())
    for shape, targets in left.items():
        names = free.get(shape, [])
        if len(names) == len(targets):
            matched.update({target: (name, "shape and order") for target, name in zip(targets, names, strict=True)})
    return matched, [name for name in misshapen if name not in matched]


def _copy(module: nn.Module, values: Mapping[str, Tensor], file: Path) -> None:
    """Copy `values` into the tensors of `module` that have their names, converted to the dtype of each.

    Raises:
        InputError: one is no array of floats, or holds NaN or infinity; nothing has been copied then.
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
        raise InputError(
            f"{file}: weight {broken[0]!r} (and {len(broken) - 1} more) holds NaN or infinity; give a sound file"
        )
    with torch.no_grad():
        for name, value in ready.items():
            own[name].copy_(value)


def _long_axes(tensor: Tensor) -> list[int]:
    """The shape without axes of length 1: slopes are [C] or [C, 1, 1], but [N, K] is not [K, N]."""
    return [size for size in tensor.shape if size != 1]


def _by_shape(tensors: Mapping[str, Tensor], matched: Collection[str]) -> dict[tuple[int, ...], list[str]]:
    found: dict[tuple[int, ...], list[str]] = {}
    for name, tensor in tensors.items():
        if name not in matched and not is_counter(name):
            found.setdefault(tuple(tensor.shape), []).append(name)
    return found
