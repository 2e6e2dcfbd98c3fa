"""The records of a TorchScript file (`.pt`), checked: what may be handed to torch, and what `inspect` reads without it.

They are its source, its pickles and the numbers; positions in the original source (`.debug_pkl`) are left out.
Quantised modules keep packed weights in classes of C++ and are refused. Nothing here loads torch.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....errors import InputError
from .archive import TorchArchive
from .forbidden_operators import RECORDED
from .script_code import CodeError, check_code, defined_names, parse_code
from .special_files import refuse_special
from .tensor_pickle import Made, Named, PickleError, read_pickle

__all__ = ["ScriptRecords", "read_script"]

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


@dataclass(frozen=True)
class ScriptRecords:
    """What a TorchScript file is made of."""

    archive: TorchArchive
    texts: dict[str, bytes]
    """Checked records that are no numbers, by name."""
    code: Mapping[str, ast.Module]
    """The source, parsed, by record."""
    root: Any
    """The module's values, see `read_pickle`."""
    numbers: tuple[str, ...]
    """Names of the records of weights and constants."""

    def all(self) -> dict[str, bytes]:
        """All checked records, the numbers included."""
        return {**self.texts, **{name: self.archive.read(name) for name in self.numbers}}

    def stated(self, keys: Iterable[str]) -> dict[str, str]:
        """The texts that `export` wrote beside the module under `keys`."""
        found = {key: _extra(self.archive, key) for key in keys if f"extra/{key}" in self.archive.names}
        return {key: text for key, text in found.items() if text}


def read_script(path: str | Path, forbidden: frozenset[str] = RECORDED, content: bytes | None = None) -> ScriptRecords:
    """The checked records of a TorchScript file, whose source names none of the operators `forbidden`.

    `content` is the file's bytes, where they were read already.

    Raises:
        InputError: it is not TorchScript, is damaged, or calls more than operators on tensors.
    """
    refuse_special(Path(path))
    try:
        content = Path(path).read_bytes() if content is None else content
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({error.strerror or error})") from error
    if not content.startswith(b"PK\x03\x04"):
        raise InputError(_not_torchscript(path))
    archive = TorchArchive(path, content)
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
    texts = {versions[0]: version, "byteorder": b"little"}
    sources, trees = _checked_code(archive, code, forbidden)
    texts[_DATA], root = _checked_pickle(archive, _DATA, "data")
    if not isinstance(root, Made) or not _is_own_class(root.by):
        raise InputError(f"{path}: record {_DATA!r} holds no module of the file's source; save it again")
    texts[_CONSTANTS], _ = _checked_pickle(archive, _CONSTANTS, "constants")
    return ScriptRecords(archive, texts | sources, trees, root, tuple(numbers))


def _not_torchscript(path: object) -> str:
    return (
        f"{path}: expected TorchScript, got something else; save it with torch.jit.save "
        "(pickled modules are never opened)"
    )


def _checked_code(
    archive: TorchArchive, names: Iterable[str], forbidden: frozenset[str]
) -> tuple[dict[str, bytes], dict[str, ast.Module]]:
    texts = {name: archive.read(name, _LONGEST_CODE) for name in names}
    name = ""
    try:
        trees = {}
        for name, text in texts.items():
            trees[name] = parse_code(text)
        defined = defined_names(trees.values())
        for name, text in texts.items():
            check_code(text, trees[name], defined, forbidden)
    except CodeError as error:
        raise InputError(
            f"{archive.path}: record {name!r}: {error}; a model is opened only if it calls operators on tensors alone"
        ) from error
    return texts, trees


def _checked_pickle(archive: TorchArchive, name: str, folder: str) -> tuple[bytes, Any]:
    def record_size(key: str) -> int | None:
        record = f"{folder}/{key}"
        return archive.size(record) if record in archive.names else None

    content = archive.read(name, _LONGEST_CODE)
    try:
        root = read_pickle(content, called=_CALLED, made=_is_own_class, record_size=record_size)
    except PickleError as error:
        raise InputError(f"{archive.path}: record {name!r}: {error}") from error
    return content, root


def _is_own_class(named: Named) -> bool:
    """Whether it is a class of the file's own source; those below `torch.classes` are C++."""
    parts = named.module.split(".")
    return parts[0] == "__torch__" and parts[1:3] != ["torch", "classes"]


def _extra(archive: TorchArchive, key: str) -> str:
    return archive.read(f"extra/{key}", _LONGEST_TEXT).decode(errors="replace")
