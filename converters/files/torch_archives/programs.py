"""Opens an exported program (`.pt2`): checks every record, and lets torch read what was checked.

torch.export.load unpickles, loads shared libraries, resolves operators by attribute look-ups and evaluates
expressions, as its documentation warns. What it gets from here is an archive with the program (see `program_schema`),
raw numbers for weights and constants, and sample inputs that are tensors. Every other record is refused by name.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ....errors import InputError
from .archive import TorchArchive, pack
from .program_schema import PAYLOADS, PROGRAM, SchemaError, read_json
from .tensor_pickle import PickleError, largest_offset, read_pickle

__all__ = ["load_program"]

_PROGRAM = "models/model.json"
_WEIGHTS = "data/weights/model_weights_config.json"
_CONSTANTS = "data/constants/model_constants_config.json"
_SAMPLES = "data/sample_inputs/model.pt"
_FORMAT, _VERSION = "archive_format", "archive_version"
_EXTRA = "extra/"
_OTHER = re.compile(r"extra/.*|\.data/\w+|byteorder|\.format_version|\.storage_alignment|version")
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2} | {
    28: 2, 29: 1, 30: 1, 31: 1, 32: 1, 33: 1, 34: 4, 35: 8
}  # fmt: skip
"""Scalar type of the schema -> bytes."""
_LONGEST_JSON = 1 << 28
_LONGEST_TEXT = 1 << 22

_TENSOR_CALLS = frozenset(
    ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "collections.OrderedDict")
)
_MOST_SAMPLES = 1000


def load_program(
    path: str | Path, keys: Iterable[str] = (), content: bytes | None = None
) -> tuple[ExportedProgram, torch.fx.GraphModule, dict[str, str]]:
    """The program in a `.pt2`, its module, and the texts that `export` wrote beside it under `keys`.

    `content` is the file's bytes, where they were read already; `path` then only names it.

    Raises:
        InputError: it is not an exported program of torch 2.8 or newer, is damaged, or asks for more than operators on
            tensors; names the record.
    """
    try:
        content = Path(path).read_bytes() if content is None else content
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({error.strerror or error})") from error
    archive = TorchArchive(path, content)
    records = _checked_records(archive)
    stated = {key: _extra(archive, key) for key in keys if _EXTRA + key in archive.names}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(pack(records))
            module = program.module()
    except Exception as error:  # what torch raises at a program that contradicts itself has no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: torch cannot read the program ({reason[:200]}); export it again") from error
    return program, module, {key: text for key, text in stated.items() if text}


def _checked_records(archive: TorchArchive) -> dict[str, bytes]:
    """What torch gets."""
    path = archive.path
    if {_FORMAT, _VERSION, _PROGRAM} - archive.names:
        raise InputError(
            f"{path}: expected an exported program as torch 2.8 and newer write it, got something else; save it "
            "again with torch.export.save in the torch that wrote it, or give the .onnx"
        )
    if archive.read(_FORMAT, 16) != b"pt2" or archive.read(_VERSION, 16) != b"0":
        raise InputError(f"{path}: expected an archive of format pt2, version 0; save it again with torch.export.save")
    if "byteorder" in archive.names and archive.read("byteorder", 16) != b"little":
        raise InputError(f"{path}: its numbers are not little-endian; save it again on such a machine")
    records = {_FORMAT: b"pt2", _VERSION: b"0", "byteorder": b"little", ".data/version": b"6"}
    records[_PROGRAM] = _json(archive, _PROGRAM, PROGRAM)
    records |= _payloads(archive, _WEIGHTS, "weight_")
    records |= _payloads(archive, _CONSTANTS, "tensor_")
    records[_SAMPLES] = _samples(archive)
    unread = sorted(name for name in archive.names - set(records) if not _OTHER.fullmatch(name))
    if unread:
        raise InputError(
            f"{path}: record {unread[0]!r} is not part of one exported program without pickles and compiled code; "
            "save it with torch.export.save(torch.export.export(...))"
        )
    return records


def _json(archive: TorchArchive, name: str, check: Any) -> bytes:
    content = read_json(archive.path, name, archive.read(name, _LONGEST_JSON))
    try:
        return json.dumps(check(content, "")).encode()
    except SchemaError as error:
        raise InputError(f"{archive.path}: record {name!r}: {str(error).lstrip('.')}") from error
    except RecursionError as error:
        raise InputError(f"{archive.path}: record {name!r} is nested too deeply") from error


def _payloads(archive: TorchArchive, config: str, prefix: str) -> dict[str, bytes]:
    """The configuration of weights or constants, and the records it names."""
    folder = config.rpartition("/")[0]
    checked = _json(archive, config, PAYLOADS)
    records = {config: checked}
    for name, payload in json.loads(checked)["config"].items():
        record = f"{folder}/{payload['path_name']}"
        if not re.fullmatch(rf"{prefix}\d{{1,9}}", payload["path_name"], re.ASCII) or record not in archive.names:
            raise InputError(f"{archive.path}: record {config!r}: {name!r} lies in {payload['path_name'][:60]!r}")
        _check_extent(archive, config, name, payload["tensor_meta"], archive.size(record))
        if record not in records:
            records[record] = archive.read(record)
    return records


def _check_extent(archive: TorchArchive, config: str, name: str, meta: dict[str, Any], size: int) -> None:
    """Refuse a tensor that reads beyond its record, or is made of nothing."""
    try:
        numbers = [value["as_int"] for value in (*meta["sizes"], *meta["strides"], meta["storage_offset"])]
        rank = len(meta["sizes"])
        last = largest_offset(numbers[:rank], numbers[rank:-1], numbers[-1])
    except (KeyError, PickleError) as error:
        raise InputError(f"{archive.path}: record {config!r}: {name!r} has no fixed shape ({error})") from error
    if last * _WIDTHS[meta["dtype"]] > size or size % _WIDTHS[meta["dtype"]]:
        raise InputError(
            f"{archive.path}: record {config!r}: {name!r} reads {last} numbers, its record has {size} bytes"
        )


def _samples(archive: TorchArchive) -> bytes:
    """The sample inputs, written again; torch falls back to a full unpickling where it cannot read the file's own."""
    if _SAMPLES not in archive.names or archive.size(_SAMPLES) == 0:
        return b""
    inner = TorchArchive(f"{archive.path}: {_SAMPLES}", archive.read(_SAMPLES))
    data = inner.read("data.pkl", _LONGEST_TEXT)
    try:
        read_pickle(
            data,
            called=_TENSOR_CALLS,
            made=lambda _: False,
            record_size=lambda key: inner.size(f"data/{key}") if f"data/{key}" in inner.names else None,
        )
    except PickleError as error:
        raise InputError(f"{archive.path}: its sample inputs are not plain tensors: {error}") from error
    records = {name: inner.read(name) for name in inner.names if re.fullmatch(r"data/\d+|byteorder|version", name)}
    try:
        samples = torch.load(pack({"data.pkl": data, **records}), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives have no common base
        raise InputError(f"{archive.path}: its sample inputs cannot be read ({str(error)[:200]})") from error
    left = [_MOST_SAMPLES]
    if not isinstance(samples, tuple) or len(samples) != 2 or not _is_plain(samples, left):
        raise InputError(f"{archive.path}: its sample inputs are not tensors in tuples, lists and dictionaries")
    file = io.BytesIO()
    torch.save(samples, file)
    return file.getvalue()


def _is_plain(value: Any, left: list[int]) -> bool:
    """Whether a value is built of tensors, numbers and containers, few of them and with plain keys."""
    left[0] -= 1
    if left[0] < 0:
        return False
    if type(value) is dict:
        plain_keys = all(isinstance(key, str) and re.fullmatch(r"[\w .:/\-]{1,200}", key) for key in value)
        return plain_keys and all(_is_plain(item, left) for item in value.values())
    if type(value) in (tuple, list):
        return all(_is_plain(item, left) for item in value)
    return value is None or type(value) in (Tensor, torch.nn.Parameter, int, float, bool, str)


def _extra(archive: TorchArchive, key: str) -> str:
    return archive.read(_EXTRA + key, _LONGEST_TEXT).decode(errors="replace")
