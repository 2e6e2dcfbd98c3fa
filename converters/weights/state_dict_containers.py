"""Where a checkpoint keeps its state_dict: under a key that trainers use, under the only one, or under the one named.

A file with several state_dicts, none of them under a usual name, is refused with the choice of keys; so is one with
two usual names whose tensors have the same names and other values. An average of weights (`ema`) stands behind the
weights themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["AmbiguousError", "Found", "chosen_state_dict", "find_state_dict"]

_CONTAINERS = (
    "state_dict",  # PyTorch Lightning, torchreid, timm
    "state_dict_backbone",  # arcface_torch
    "model_state_dict",  # PyTorch's tutorials
    "model",  # fast-reid, DeiT, MAE
    "net",
    "network",
    "backbone",
    "module",  # DeepSpeed
)
"""Keys under which checkpoints keep a state_dict."""
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
"""Keys of averages, which are read where the file has nothing else."""
_DEEPEST = 4
"""Containers in containers that are opened; a pickle can hold itself."""

Found = tuple[Mapping[Any, Any], tuple[str, ...], list[str]]
"""The mapping that holds the tensors, the keys that lead to it, and the entries passed by on the way."""


class AmbiguousError(ValueError):
    """A file has several state_dicts, and nothing says which is meant; `args` are their keys."""


def find_state_dict(content: Mapping[Any, Any], trail: tuple[str, ...] = ()) -> Found:
    """The state_dict in the content of a file.

    Raises:
        AmbiguousError: there are several.
    """
    ignored: list[str] = []
    while len(trail) < _DEEPEST:
        key = _container(content, _DEEPEST - len(trail), trail)
        if key is None:
            break
        ignored += [".".join((*trail, str(other))) for other in content if other != key]
        trail, content = (*trail, key), content[key]
    return content, trail, ignored


def chosen_state_dict(content: Mapping[Any, Any], choice: str) -> Found | None:
    """The state_dict under a key, keys joined by dots, or a prefix of its tensors' names; None where there is none."""
    if isinstance(content.get(choice), Mapping):
        ignored = [str(other) for other in content if other != choice]
        inner, trail, more = find_state_dict(content[choice], (choice,))
        return inner, trail, [*ignored, *more]
    first, _, rest = choice.partition(".")
    if rest and isinstance(content.get(first), Mapping):
        found = chosen_state_dict(content[first], rest)
        if found is not None:
            inner, trail, ignored = found
            others = [str(other) for other in content if other != first]
            return inner, (first, *trail), [*others, *(f"{first}.{name}" for name in ignored)]
    try:
        flat, trail, ignored = find_state_dict(content)
    except AmbiguousError:
        return None
    below = {key: value for key, value in flat.items() if isinstance(key, str) and key.startswith(f"{choice}.")}
    if not below:
        return None
    return below, trail, [*ignored, *(str(key) for key in flat if key not in below)]


def _container(content: Mapping[Any, Any], levels: int, trail: tuple[str, ...]) -> str | None:
    """The key of the container to open in `content`; None where the tensors lie in it directly, or there are none."""
    holding = [key for key, value in content.items() if isinstance(key, str) and _holds_tensors(value, levels)]
    usual = [key for key in _CONTAINERS if key in holding]
    if not usual and any(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        return next((key for key in _AVERAGES if key in holding), None)
    if usual:
        rivals = [key for key in usual[1:] if _are_rivals(content[usual[0]], content[key])]
        if rivals:
            raise AmbiguousError(*(".".join((*trail, key)) for key in (usual[0], *rivals)))
        return usual[0]
    others = [key for key in holding if key not in _AVERAGES]
    if len(others) > 1:
        raise AmbiguousError(*(".".join((*trail, key)) for key in holding))
    return others[0] if others else next((key for key in _AVERAGES if key in holding), None)


def _holds_tensors(value: Any, levels: int) -> bool:
    """Whether `value` is a mapping with named tensors in it, or in a container at most `levels` further down."""
    if not isinstance(value, Mapping) or levels == 0:
        return False
    direct = any(isinstance(key, str) and isinstance(entry, Tensor) for key, entry in value.items())
    return direct or any(_holds_tensors(value.get(key), levels - 1) for key in (*_CONTAINERS, *_AVERAGES))


def _are_rivals(first: Any, second: Any) -> bool:
    """Whether both are state_dicts of one network with other values."""
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return False
    ours = {key: value for key, value in first.items() if isinstance(value, Tensor)}
    theirs = {key: value for key, value in second.items() if isinstance(value, Tensor)}
    if not ours or ours.keys() != theirs.keys():
        return False
    return any(not torch.equal(value, theirs[key]) for key, value in ours.items() if value.shape == theirs[key].shape)
