"""Reads a state_dict from a file of any common kind, and runs no code that the file may hold.

A `.safetensors` file, or what `torch.save` wrote: the tensors by name, or a checkpoint that keeps them under a key
beside an epoch, an optimizer and the like. PyTorch's own restricted unpickler opens the
latter (`weights_only=True`); what many training programs store beside the weights (`inert_objects`) is replaced by an
empty stand-in instead of being made. Whatever else a file asks for is refused by name.

Which entry holds the weights is found in `state_dict_containers`; names are brought to those of a module in
`state_dict_names`, tensors copied into it in `state_dict_loading`.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ...errors import InputError
from ..files.torch_archives.special_files import refuse_special
from .inert_objects import STAND_INS
from .state_dict_containers import AmbiguousError, Found, chosen_state_dict, find_state_dict

__all__ = ["StateDictFile", "read_state_dict"]

_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
_EXPECTED = "expected a state_dict of tensors (.pth, .pt, .ckpt or .safetensors)"
_SHOWN = 5


@dataclass(frozen=True)
class StateDictFile:
    """The named tensors of a file, on the CPU, and what else the file holds."""

    path: Path
    sha256: str
    """Of the bytes that were read."""
    tensors: Mapping[str, Tensor] = field(repr=False)
    """By the name that each has in the file."""
    container: str | None
    """The key under which the file keeps them, such as `state_dict`, or `model.state_dict` of nested ones."""
    ignored: tuple[str, ...]
    """Other entries of the file, such as `epoch` and `optimizer`."""


def read_state_dict(path: str | Path) -> StateDictFile:
    """Read the state_dict in a `.safetensors` file or in one that `torch.save` wrote.

    `FILE:KEY` chooses one of several in a file, by its key or by the prefix of its tensors' names. The file is read
    once, so its digest is that of the tensors whatever happens to the file later.

    Raises:
        InputError: the file is missing, a folder, empty, damaged or of another kind; it holds Python objects, which are
            not loaded because that can run code; it has no tensors with names; or it
            has several state_dicts, or none under the chosen key.
    """
    file, choice = _file_and_key(Path(path))
    data = _read_bytes(file)
    content = _load(file, data)
    if not isinstance(content, Mapping):
        raise InputError(f"{file}: {_EXPECTED}, got {_kind(content)}; save model.state_dict()")
    inner, trail, ignored = _state_dict(file, content, choice)
    tensors = {key: value for key, value in inner.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        entries = _some(str(key) for key in content)
        raise InputError(f"{file}: {_EXPECTED}, got one without named tensors ({entries}); save model.state_dict()")
    ignored += [".".join((*trail, str(key))) for key in inner if key not in tensors]
    return StateDictFile(file, hashlib.sha256(data).hexdigest(), tensors, ".".join(trail) or None, tuple(ignored))


def _file_and_key(path: Path) -> tuple[Path, str]:
    """The file that `FILE:KEY` names, and the key; "" where there is none."""
    name, _, key = str(path).rpartition(":")
    if key and not path.exists() and Path(name).is_file():
        return Path(name), key
    return path, ""


def _state_dict(file: Path, content: Mapping[Any, Any], choice: str) -> Found:
    """The state_dict in the content of a file: the chosen one, else the only one.

    Raises:
        InputError: there are several, or none under the chosen key.
    """
    try:
        found = chosen_state_dict(content, choice) if choice else find_state_dict(content)
    except AmbiguousError as error:
        ways = " or ".join(f"{file}:{key}" for key in error.args)
        raise InputError(
            f"{file}: holds several state_dicts ({', '.join(error.args)}); say which one: {ways}"
        ) from error
    if found is None:
        keys = _some(str(key) for key in content)
        raise InputError(
            f"{file}: has no state_dict under {choice!r}, and no tensor whose name begins so; it has {keys}"
        )
    return found


def _read_bytes(file: Path) -> bytes:
    """The bytes of a file, after recognising what else may lie at `file`."""
    if file.is_dir():
        inside = sorted(entry.name for entry in file.iterdir() if entry.suffix in _SUFFIXES)
        hint = f"give {file / inside[0]}" if inside else "give the file in it"
        raise InputError(f"{file}: {_EXPECTED}, got a folder; {hint}")
    refuse_special(file)
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error
    head = data[:512].lstrip().lower()
    if not data:
        raise InputError(f"{file}: {_EXPECTED}, got an empty file; fetch or save it again")
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{file}: {_EXPECTED}, got a git-lfs pointer; run `git lfs pull` first")
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(f"{file}: {_EXPECTED}, got a web page; download the file itself")
    if file.suffix == ".onnx":
        raise InputError(f"{file}: {_EXPECTED}, got an ONNX model; give it as the model, not as weights for one")
    return data


def _load(file: Path, data: bytes) -> Any:
    """What the bytes hold, without running any of it."""
    try:
        if file.suffix == ".safetensors" or _starts_like_safetensors(data):
            return safetensors.torch.load(data)
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(STAND_INS):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message advises to run whatever is in the file
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is not None:
            raise InputError(
                f"{file}: {_EXPECTED}, got Python objects ({asked[1]}), which are not loaded because loading them can "
                "run code; save model.state_dict() alone"
            ) from error
        raise InputError(
            f"{file}: {_EXPECTED}, cannot read it (damaged, or not written by torch.save); fetch or save it again"
        ) from error
    except Exception as error:  # damaged bytes break the reading in ways nobody can list
        if "TorchScript" in str(error):
            raise InputError(
                f"{file}: {_EXPECTED}, got a TorchScript archive; save its state_dict(), or give it as the model"
            ) from error
        reason = next((line for line in str(error).splitlines() if "weights_only" not in line), type(error).__name__)
        raise InputError(f"{file}: {_EXPECTED}, cannot read it ({reason.strip()}); fetch or save it again") from error


def _starts_like_safetensors(data: bytes) -> bool:
    """Whether a header of JSON follows its own length (8 bytes, little-endian), whatever the file is called."""
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8


def _kind(value: Any) -> str:
    return "a single tensor" if isinstance(value, Tensor) else type(value).__name__


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "") if listed else "it is empty"
