"""Opens a TorchScript file (`.pt`): checks its source and its pickles, and lets torch read what was checked.

torch.jit.load compiles the source in the file, runs what its pickles ask for, and reads as many numbers as they state.
What it gets from here is an archive with the checked source, the checked pickles and the numbers; positions in the
original source (`.debug_pkl`) are left out. Quantised modules keep packed weights in classes of C++ and are refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from ....errors import InputError
from .archive import TorchArchive, pack
from .script_code import CodeError, check_code, defined_names, parse_code
from .tensor_pickle import Named, PickleError, read_pickle

__all__ = ["load_script", "rewritten_script"]

_CODE = re.compile(r"code/__torch__(/[\w\-]+)*(/\w+)?\.py", re.ASCII)
_UNREAD = re.compile(
    r"code/.*\.debug_pkl|\.data/\w+|\.format_version|\.storage_alignment|extra/.*|byteorder|traced_inputs(\.pkl|/.*)"
)
_DATA, _CONSTANTS = "data.pkl", "constants.pkl"
_VERSIONS = ("version", ".data/version")
"""Where torch writes the version of the format, the newer place last."""
_NUMBERS = re.compile(r"(data|constants)/\d{1,9}", re.ASCII)
_LONGEST_CODE = 1 << 26
_LONGEST_TEXT = 1 << 22

_CALLED = frozenset(
    (
        "torch._utils._rebuild_tensor_v2",
        "collections.OrderedDict",
        "torch.jit._pickle.build_boollist",
        "torch.jit._pickle.build_doublelist",
        "torch.jit._pickle.build_intlist",
        "torch.jit._pickle.build_tensorlist",
        "torch.jit._pickle.restore_type_tag",
    )
)


def load_script(
    path: str | Path, keys: Iterable[str] = (), content: bytes | None = None
) -> tuple[torch.jit.ScriptModule, dict[str, str]]:
    """The module in a TorchScript file, and the texts that `export` wrote beside it under `keys`.

    `content` is the file's bytes, where they were read already; `path` then only names it.

    Raises:
        InputError: it is not TorchScript, is damaged, or calls more than operators on tensors.
    """
    archive = _opened(path, content)
    records = _checked_records(archive)
    stated = {key: _extra(archive, key) for key in keys if f"extra/{key}" in archive.names}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.load(pack(records), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # what torch raises at source that contradicts itself has no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: torch cannot read the TorchScript ({reason[:200]}); save it again") from error
    return module, {key: text for key, text in stated.items() if text}


def rewritten_script(path: str | Path, content: bytes, stated: Mapping[str, str]) -> bytes:
    """The file again, of its checked records alone and with the texts `stated` by key: without positions in sources.

    Raises:
        InputError: as `load_script`.
    """
    texts = {f"extra/{key}": text.encode() for key, text in stated.items()}
    return pack({**_checked_records(_opened(path, content)), **texts}).getvalue()


def _opened(path: str | Path, content: bytes | None) -> TorchArchive:
    try:
        content = Path(path).read_bytes() if content is None else content
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({error.strerror or error})") from error
    if not content.startswith(b"PK\x03\x04"):
        raise InputError(_not_torchscript(path))
    return TorchArchive(path, content)


def _not_torchscript(path: object) -> str:
    return (
        f"{path}: expected TorchScript, got something else; save it with torch.jit.save "
        "(pickled modules are never opened)"
    )


def _checked_records(archive: TorchArchive) -> dict[str, bytes]:
    """What torch gets."""
    path = archive.path
    code = sorted(name for name in archive.names if _CODE.fullmatch(name))
    versions = [name for name in _VERSIONS if name in archive.names]
    if not code or {_DATA, _CONSTANTS} - archive.names or not versions:
        raise InputError(_not_torchscript(path))
    version = archive.read(versions[0], 16)
    if not re.fullmatch(rb"\d{1,3}\n?", version):
        raise InputError(f"{path}: record {versions[0]!r} holds {version!r}, expected a number")
    if "byteorder" in archive.names and archive.read("byteorder", 16) != b"little":
        raise InputError(f"{path}: its numbers are not little-endian; save it again on such a machine")
    numbers = sorted(name for name in archive.names if _NUMBERS.fullmatch(name))
    unread = sorted(archive.names - {_DATA, _CONSTANTS, *versions, *code, *numbers})
    unread = [name for name in unread if not _UNREAD.fullmatch(name)]
    if unread:
        raise InputError(f"{path}: record {unread[0]!r} is not part of a TorchScript file; save it with torch.jit.save")
    records = {versions[0]: version, "byteorder": b"little", **_checked_code(archive, code)}
    for name, folder in ((_DATA, "data"), (_CONSTANTS, "constants")):
        records[name] = _checked_pickle(archive, name, folder)
    return records | {name: archive.read(name) for name in numbers}


def _checked_code(archive: TorchArchive, names: Iterable[str]) -> dict[str, bytes]:
    texts = {name: archive.read(name, _LONGEST_CODE) for name in names}
    name = ""
    try:
        trees = {}
        for name, text in texts.items():
            trees[name] = parse_code(text)
        defined = defined_names(trees.values())
        for name, text in texts.items():
            check_code(text, trees[name], defined)
    except CodeError as error:
        raise InputError(
            f"{archive.path}: record {name!r}: {error}; a model is opened only if it calls operators on tensors alone"
        ) from error
    return texts


def _checked_pickle(archive: TorchArchive, name: str, folder: str) -> bytes:
    def record_size(key: str) -> int | None:
        record = f"{folder}/{key}"
        return archive.size(record) if record in archive.names else None

    content = archive.read(name, _LONGEST_CODE)
    try:
        read_pickle(content, called=_CALLED, made=_is_own_class, record_size=record_size)
    except PickleError as error:
        raise InputError(f"{archive.path}: record {name!r}: {error}") from error
    return content


def _is_own_class(named: Named) -> bool:
    """Whether it is a class of the file's own source; those below `torch.classes` are C++."""
    parts = named.module.split(".")
    return parts[0] == "__torch__" and parts[1:3] != ["torch", "classes"]


def _extra(archive: TorchArchive, key: str) -> str:
    return archive.read(f"extra/{key}", _LONGEST_TEXT).decode(errors="replace")
