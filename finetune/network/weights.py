"""Load a state_dict into a network by name: `.safetensors`, or `.pth` read without executing pickled code.

A name that the network has is taken as it is; from others wrappers' prefixes (`module.`, `backbone.`, `model.`) are
dropped. Tensors of a classifier that the network does not have are left out. Everything the network has must be in the
file, unless a gap is allowed.
"""

from __future__ import annotations

import pickle
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...errors import InputError
from ..config.name_patterns import matches

__all__ = ["LoadedWeights", "load_weights"]

_PREFIXES = ("module.", "backbone.", "model.")
_CONTAINERS = ("state_dict", "state_dict_backbone", "model", "model_state_dict")
"""Where checkpoints keep the state_dict; `state_dict_backbone` is arcface_torch's."""
_UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)
"""What torch and safetensors raise at files that are damaged, cut short or something else."""
_SHOWN = 3


@dataclass(frozen=True)
class LoadedWeights:
    """Names of tensors: those `loaded`, those the network `kept` because the file lacks them, and those `left_out`."""

    loaded: tuple[str, ...]
    kept: tuple[str, ...]
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        if self.kept:
            parts.append(f"{len(self.kept)} kept as they were: {_some(self.kept)}")
        if self.left_out:
            parts.append(f"{len(self.left_out)} of the file have no place in the network: {_some(self.left_out)}")
        return "; ".join(parts)


def load_weights(module: nn.Module, path: Path, may_lack: Sequence[str] = ()) -> LoadedWeights:
    """Copy the tensors of `path` into `module`.

    Tensors that a pattern in `may_lack` names keep their values where the file lacks them.

    Raises:
        InputError: the file cannot be read, lacks or misfits tensors of the network, has none of them or two for the
            same place, or holds values that are not finite.
    """
    own = module.state_dict()
    tensors = _named_as(own, _read(path), path)
    absent = [name for name in own if name not in tensors and not name.endswith("num_batches_tracked")]
    missing = [name for name in absent if not any(matches(name, pattern) for pattern in may_lack)]
    wrong = [name for name in own if name in tensors and tensors[name].shape != own[name].shape]
    loaded = tuple(name for name in own if name in tensors)
    if missing or wrong:
        raise InputError(
            f"{path}: does not fit the network: {len(missing)} tensors missing {missing[:_SHOWN]}, {len(wrong)} of "
            f"another shape {wrong[:_SHOWN]}; the file has names like {list(tensors)[:_SHOWN]}; allow gaps with "
            "model.weights_may_lack"
        )
    if not loaded:
        raise InputError(
            f"{path}: has no tensor of the network; the file has names like {list(tensors)[:_SHOWN]}, the network "
            f"{list(own)[:_SHOWN]}"
        )
    broken = [name for name in loaded if not torch.isfinite(tensors[name]).all()]
    if broken:
        raise InputError(f"{path}: {len(broken)} tensors hold NaN or infinity, such as {broken[0]}; take another file")
    module.load_state_dict({name: tensors.get(name, value) for name, value in own.items()})
    return LoadedWeights(loaded, tuple(absent), tuple(name for name in tensors if name not in own))


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        # torch's own message advises to load such files unsafely.
        pickled = "it is no torch file, or has pickled objects in it, which are not loaded"
        unpickling = isinstance(error, pickle.UnpicklingError)
        reason = pickled if unpickling else str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"{path}: expected a state_dict of tensors (.safetensors or .pth), and it cannot be read as one: {reason}"
        ) from error
    for key in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    named = content.items() if isinstance(content, dict) else ()
    tensors = {name: value for name, value in named if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{path}: holds no named tensors; expected a state_dict")
    return tensors


def _named_as(own: Container[str], tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors under the network's names; one that has a name of the network already goes before others.

    Raises:
        InputError: two others have the same name of the network without their prefixes.
    """
    given: dict[str, str] = {}
    for name in tensors:
        if name in own:
            continue
        bare = _without_prefixes(name, own)
        if bare in given and bare in own and bare not in tensors:
            raise InputError(
                f"{path}: '{given[bare]}' and '{name}' are both {bare} of the network; take a file with one of them"
            )
        given[bare] = name
    renamed = {bare: tensors[name] for bare, name in given.items()}
    return {**renamed, **{name: value for name, value in tensors.items() if name in own}}


def _without_prefixes(name: str, own: Container[str]) -> str:
    """`name` without as many wrappers' prefixes as it takes to be a name of the network; without any if none helps."""
    while name not in own:
        shorter = next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), None)
        if shorter is None:
            break
        name = shorter
    return name


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
