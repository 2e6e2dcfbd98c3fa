"""Loads the weights of a fused `.pth` into a converted module: by name, else by unique shape and order.

For users whose training code exports a fused state_dict beside the graph. The state_dict of the unfused original goes
into a module whose BatchNorms were restored, by name. Nothing is unpickled: only tensors in plain containers are
read. A partial match is refused unless asked for.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...errors import InputError

__all__ = ["MatchedWeight", "WeightMatch", "is_unfused", "load_fused_weights", "load_unfused_weights"]

_DEPTHS = {
    237: "a fused iresnet50",
    462: "a fused iresnet100",
    396: "an unfused iresnet50",
    771: "an unfused iresnet100",
}
"""Tensors in the state_dict (without counters) of insightface's networks."""
_NESTED = ("state_dict", "model", "model_state_dict")


@dataclass(frozen=True)
class MatchedWeight:
    """Parameter or buffer `target` was loaded from `key`."""

    target: str
    key: str
    how: Literal["name", "shape and order"]


@dataclass(frozen=True)
class WeightMatch:
    """What was loaded from a state_dict, and what was left."""

    matched: tuple[MatchedWeight, ...]
    missing: tuple[str, ...]
    """Parameters and buffers of the module that got nothing."""
    unused: tuple[str, ...]
    """Keys of the file that went nowhere."""
    looks_like: str | None


def load_fused_weights(module: nn.Module, path: str | Path, *, allow_partial: bool = False) -> WeightMatch:
    """Load the state_dict at `path` into `module`, in place.

    Raises:
        InputError: the file holds no state_dict, or does not fill the module completely and `allow_partial` is off.
    """
    file = Path(path)
    state = _read_state(file)
    match = _match({k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}, state)
    if (match.missing or match.unused) and not allow_partial:
        kind = f"; it looks like {match.looks_like}" if match.looks_like else ""
        raise InputError(
            f"{file}: {len(match.matched)} tensors fit, {len(match.missing)} of the model get none "
            f"({', '.join(match.missing[:3]) or '-'}), {len(match.unused)} of the file are left over "
            f"({', '.join(match.unused[:3]) or '-'}){kind}; give the weights of this graph, or --allow-partial"
        )
    own = module.state_dict()
    with torch.no_grad():
        for entry in match.matched:
            own[entry.target].copy_(state[entry.key].reshape(own[entry.target].shape))
    return match


def is_unfused(module: nn.Module, path: str | Path) -> bool:
    """Whether the state_dict at `path` has BatchNorms that `module` has not.

    Raises:
        InputError: the file holds no state_dict.
    """
    own = module.state_dict()
    return any(name.endswith("running_mean") and name not in own for name in _read_state(Path(path)))


def load_unfused_weights(module: nn.Module, path: str | Path, *, allow_partial: bool = False) -> WeightMatch:
    """Load the state_dict of the original network into `module`, which has its BatchNorms back, by name, in place.

    A bias that a layer got from fusing and the original lacks is zero.

    Raises:
        InputError: the file holds no state_dict, or does not fill the module completely and `allow_partial` is off.
    """
    file = Path(path)
    state = _read_state(file)
    own = set(module.state_dict())
    try:
        outcome = module.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{file}: is of another architecture ({reason}); give the original's weights") from error
    missing = tuple(name for name in outcome.missing_keys if not name.endswith("num_batches_tracked"))
    unused = tuple(outcome.unexpected_keys)
    if (missing or unused) and not allow_partial:
        raise InputError(
            f"{file}: {len(missing)} tensors of the model get none ({', '.join(missing[:3]) or '-'}), "
            f"{len(unused)} of the file are left over ({', '.join(unused[:3]) or '-'}); "
            "give the weights of the network this file was exported from, or --allow-partial"
        )
    matched = tuple(MatchedWeight(name, name, "name") for name in state if name in own)
    return WeightMatch(matched, missing, unused, _DEPTHS.get(len(state)))


def _read_state(file: Path) -> dict[str, Tensor]:
    try:
        loaded: Any = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; check the path") from None
    except pickle.UnpicklingError as error:  # torch's own message advises to run whatever is in the file
        raise InputError(
            f"{file}: expected a state_dict of tensors, got other Python objects or a damaged file; "
            "save model.state_dict()"
        ) from error
    except Exception as error:  # damaged bytes break the reading in ways nobody can list
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{file}: expected a state_dict of tensors, cannot read it ({reason}); fetch or save it again"
        ) from error
    for key in _NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not any(isinstance(value, Tensor) for value in loaded.values()):
        raise InputError(
            f"{file}: expected a state_dict of tensors, got {type(loaded).__name__}; save model.state_dict()"
        )
    tensors = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    return {
        key.removeprefix("module."): value for key, value in tensors.items() if not key.endswith("num_batches_tracked")
    }


def _match(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> WeightMatch:
    matched = [
        MatchedWeight(name, name, "name")
        for name, tensor in own.items()
        if name in state and _long_axes(state[name]) == _long_axes(tensor)
    ]
    names = {entry.target for entry in matched}
    left, free = _by_shape(own, names), _by_shape(state, names)
    for shape, targets in left.items():
        keys = free.get(shape, [])
        if len(keys) == len(targets):
            matched += [MatchedWeight(t, k, "shape and order") for t, k in zip(targets, keys, strict=True)]
    targets_done, keys_done = {entry.target for entry in matched}, {entry.key for entry in matched}
    return WeightMatch(
        tuple(matched),
        tuple(name for name in own if name not in targets_done),
        tuple(key for key in state if key not in keys_done),
        _DEPTHS.get(len(state)),
    )


def _long_axes(tensor: Tensor) -> list[int]:
    """The shape without axes of length 1: slopes are [C] or [C, 1, 1], but [N, K] is not [K, N]."""
    return [size for size in tensor.shape if size != 1]


def _by_shape(tensors: Mapping[str, Tensor], taken: set[str]) -> dict[tuple[int, ...], list[str]]:
    found: dict[tuple[int, ...], list[str]] = {}
    for name, tensor in tensors.items():
        if name not in taken:
            found.setdefault(tuple(tensor.shape), []).append(name)
    return found
