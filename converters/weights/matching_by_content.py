"""Which tensor of a file is which of a module where names do not tell: by equal values, then by shape.

Equal values prove a match only where they are distinctive: any two biases may be all zeros. Those are matched where the
file has exactly the same ones as the module, so that nothing depends on which is which. A shape proves a match only
where every tensor that is left has a shape of its own, and the file has one of each; anything else is a guess.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from .weight_match import Matches, Place
from .weight_targets import Layout, Targets, long_axes

__all__ = ["match_shapes", "match_values", "sharing_shapes"]

_DISTINCTIVE = 4
"""Different numbers that a tensor must hold for its values to identify it."""


def match_values(targets: Targets, left: Collection[str], given: Mapping[str, Tensor]) -> Matches:
    """Match tensors whose values are those that the module has already.

    Args:
        targets: the module's tensors.
        left: the names of those without a match, counters of batches included.
        given: the tensors of the file without one, by key.
    """
    wanted: dict[str, list[tuple[str, Layout]]] = {}
    for name in left:
        own = targets.own[name]
        forms: list[tuple[Layout, Tensor]] = [("module", own)]
        forms += [("graph", own.t())] if name in targets.turned else []
        for layout, form in forms:
            places = wanted.setdefault(_digest(form, own.dtype), [])
            places += [(name, layout)] if name not in dict(places) else []
    keys: dict[str, list[str]] = {}
    for key, tensor in given.items():
        if _is_plain(tensor):
            for dtype in {targets.own[name].dtype for name in left}:
                keys.setdefault(_digest(tensor, dtype), []).append(key)
    matched: Matches = {}
    for digest, places in wanted.items():
        free = [key for key in keys.get(digest, ()) if key not in {place.key for place in matched.values()}]
        places = [(name, layout) for name, layout in places if name not in matched]
        if free and len(free) >= len(places) and _is_distinctive(given[free[0]]):
            for (name, layout), key in zip(places, free, strict=False):
                matched[name] = Place(key, "equal values", turned=layout == "graph")
    return matched | _plain_values(targets, [name for name in left if name not in matched], given, matched)


def _plain_values(targets: Targets, left: Collection[str], given: Mapping[str, Tensor], matched: Matches) -> Matches:
    """Match zeros, ones and the like, where all that is left of a shape is equal on both sides."""
    used = {place.key for place in matched.values()}
    found: Matches = {}
    for kind in {_kind(targets.own[name]) for name in left}:
        names = [name for name in left if _kind(targets.own[name]) == kind]
        dtype = targets.own[names[0]].dtype
        keys = [key for key, tensor in given.items() if key not in used and _kind(tensor) == kind]
        if not all(_is_plain(given[key]) for key in keys):
            continue
        ours = {name: _digest(targets.own[name], dtype) for name in names}
        theirs = {key: _digest(given[key], dtype) for key in keys}
        if Counter(ours.values()) == Counter(theirs.values()):
            for name, digest in ours.items():
                key = next(key for key, other in theirs.items() if other == digest)
                del theirs[key]
                found[name] = Place(key, "equal values")
    return found


def match_shapes(targets: Targets, left: Collection[str], given: Mapping[str, Tensor]) -> Matches:
    """Match everything that is left by shape, if every shape is there once; else nothing."""
    ours = Counter(_any_layout(targets.own[name]) for name in left)
    theirs = Counter(_any_layout(tensor) for tensor in given.values())
    if ours != theirs or any(count > 1 for count in ours.values()):
        return {}
    keys = {_any_layout(tensor): key for key, tensor in given.items()}
    found: Matches = {}
    for name in left:
        key = keys[_any_layout(targets.own[name])]
        layouts = targets.layouts(name, given[key])
        if len(layouts) != 1:
            return {}
        found[name] = Place(key, "shape", turned="graph" in layouts)
    return found


def sharing_shapes(
    targets: Targets, left: Collection[str], given: Mapping[str, Tensor]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and keys without a match whose shapes occur on both sides."""
    ours = {_any_layout(targets.own[name]) for name in left}
    theirs = {_any_layout(tensor) for tensor in given.values()}
    return (
        tuple(name for name in left if _any_layout(targets.own[name]) in theirs),
        tuple(key for key, tensor in given.items() if _any_layout(tensor) in ours),
    )


def _any_layout(tensor: Tensor) -> tuple[int, ...]:
    """The shape without axes of length 1, in order of size: what cannot tell a matrix from its transpose."""
    return tuple(sorted(long_axes(tensor)))


def _kind(tensor: Tensor) -> tuple[tuple[int, ...], bool]:
    return long_axes(tensor), tensor.is_floating_point()


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta


def _is_distinctive(tensor: Tensor) -> bool:
    return len(torch.unique(tensor.detach().reshape(-1)[:4096])) >= _DISTINCTIVE


def _digest(tensor: Tensor, dtype: torch.dtype) -> str:
    """Of the shape without axes of length 1, and the values as `dtype`."""
    values = tensor.detach().cpu().to(dtype).contiguous().reshape(-1)
    data = values.view(torch.uint8).numpy().tobytes() if values.numel() else b""
    return f"{long_axes(tensor)} {hashlib.sha256(data).hexdigest()}"
