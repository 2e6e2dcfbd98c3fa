"""Load a state_dict into a network by name: `.safetensors`, or `.pth` read without executing pickled code.

Wrappers' prefixes (`module.`, `backbone.`, `model.`) are dropped, and tensors of a classifier that the network does not
have are left out. Everything the network has must be in the file.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import InputError

__all__ = ["load_weights"]

_PREFIXES = ("module.", "backbone.", "model.")
_CONTAINERS = ("state_dict", "model", "model_state_dict")


def load_weights(module: nn.Module, path: Path, may_lack: Sequence[str] = ()) -> tuple[str, ...]:
    """Copy the tensors of `path` into `module`; returns the names in the file that it has no place for.

    Tensors whose names match a pattern in `may_lack` keep their values where the file lacks them.

    Raises:
        InputError: the file cannot be read, or lacks or misfits tensors of the network.
    """
    tensors = {_bare(name): value for name, value in _read(path).items()}
    own = module.state_dict()
    optional = ("*num_batches_tracked", *may_lack)
    missing = [n for n in own if n not in tensors and not any(fnmatchcase(n, pattern) for pattern in optional)]
    wrong = [name for name in own if name in tensors and tensors[name].shape != own[name].shape]
    if missing or wrong:
        raise InputError(
            f"{path}: does not fit the network: {len(missing)} tensors missing {missing[:3]}, {len(wrong)} of another "
            f"shape {wrong[:3]}; the file has names like {list(tensors)[:3]}; allow gaps with model.weights_may_lack"
        )
    module.load_state_dict({name: tensors.get(name, value) for name, value in own.items()})
    return tuple(name for name in tensors if name not in own)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(
            f"{path}: expected a state_dict of tensors (.safetensors or .pth), and it cannot be read as one: "
            f"{str(error).splitlines()[0]}"
        ) from error
    for key in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise InputError(f"{path}: holds no named tensors; expected a state_dict")
    return tensors


def _bare(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name
