"""The records of an exported program (`.pt2`), checked: for torch, and for `inspect`, which reads them without torch.

An archive holds the program (see `program_schema`), raw numbers for weights and constants, and sample inputs that are
tensors. Every other record is refused by name. Nothing here loads torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....errors import InputError
from .archive import TorchArchive
from .program_schema import PAYLOADS, PROGRAM, SchemaError, read_json
from .special_files import refuse_special
from .tensor_pickle import PickleError, largest_offset, read_pickle

__all__ = ["SAMPLES", "ProgramRecords", "SampleRecords", "read_program"]

_PROGRAM = "models/model.json"
_WEIGHTS = "data/weights/model_weights_config.json"
_CONSTANTS = "data/constants/model_constants_config.json"
SAMPLES = "data/sample_inputs/model.pt"
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


@dataclass(frozen=True)
class SampleRecords:
    """The sample inputs of a program: an archive within the archive, its pickle checked."""

    pickle: bytes
    numbers: dict[str, bytes]


@dataclass(frozen=True)
class ProgramRecords:
    """What an exported program is made of."""

    archive: TorchArchive
    program: dict[str, Any]
    """`models/model.json`, rebuilt from what was checked."""
    weights: dict[str, Any]
    """Name -> where its numbers lie, and their type and sizes."""
    constants: dict[str, Any]
    texts: dict[str, bytes]
    """Checked records that are no numbers, by name."""
    numbers: tuple[str, ...]
    """Names of the records of weights and constants."""

    def stated(self, keys: Iterable[str]) -> dict[str, str]:
        """The texts that `export` wrote beside the program under `keys`."""
        archive = self.archive
        texts = {key: archive.read(_EXTRA + key, _LONGEST_TEXT) for key in keys if _EXTRA + key in archive.names}
        return {key: text.decode(errors="replace") for key, text in texts.items() if text}

    def samples(self) -> SampleRecords | None:
        """The sample inputs; None where there are none.

        Raises:
            InputError: they are more than tensors.
        """
        archive = self.archive
        if SAMPLES not in archive.names or archive.size(SAMPLES) == 0:
            return None
        inner = TorchArchive(f"{archive.path}: {SAMPLES}", archive.read(SAMPLES))
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
        return SampleRecords(
            data,
            {name: inner.read(name) for name in inner.names if re.fullmatch(r"data/\d+|byteorder|version", name)},
        )


def read_program(path: str | Path, content: bytes | None = None) -> ProgramRecords:
    """The checked records of a `.pt2`; `content` is its bytes, where they were read already.

    Raises:
        InputError: it is not an exported program of torch 2.8 or newer, is damaged, or asks for more than operators on
            tensors; names the record.
    """
    refuse_special(Path(path))
    try:
        content = Path(path).read_bytes() if content is None else content
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({error.strerror or error})") from error
    archive = TorchArchive(path, content)
    if {_FORMAT, _VERSION, _PROGRAM} - archive.names:
        raise InputError(
            f"{path}: expected an exported program as torch 2.8 and newer write it, got something else; save it "
            "again with torch.export.save in the torch that wrote it, or give the .onnx"
        )
    if archive.read(_FORMAT, 16) != b"pt2" or archive.read(_VERSION, 16) != b"0":
        raise InputError(f"{path}: expected an archive of format pt2, version 0; save it again with torch.export.save")
    if "byteorder" in archive.names and archive.read("byteorder", 16) != b"little":
        raise InputError(f"{path}: its numbers are not little-endian; save it again on such a machine")
    texts = {_FORMAT: b"pt2", _VERSION: b"0", "byteorder": b"little", ".data/version": b"6"}
    program = _json(archive, _PROGRAM, PROGRAM)
    weights, weight_numbers = _payloads(archive, _WEIGHTS, "weight_")
    constants, constant_numbers = _payloads(archive, _CONSTANTS, "tensor_")
    texts |= {
        _PROGRAM: json.dumps(program).encode(),
        _WEIGHTS: json.dumps({"config": weights}).encode(),
        _CONSTANTS: json.dumps({"config": constants}).encode(),
    }
    numbers = tuple(dict.fromkeys((*weight_numbers, *constant_numbers)))
    read = {*texts, *numbers, SAMPLES}
    unread = sorted(name for name in archive.names - read if not _OTHER.fullmatch(name))
    if unread:
        raise InputError(
            f"{path}: record {unread[0]!r} is not part of one exported program without pickles and compiled code; "
            "save it with torch.export.save(torch.export.export(...))"
        )
    records = ProgramRecords(archive, program, weights, constants, texts, numbers)
    records.samples()
    return records


def _json(archive: TorchArchive, name: str, check: Any) -> Any:
    content = read_json(archive.path, name, archive.read(name, _LONGEST_JSON))
    try:
        return check(content, "")
    except SchemaError as error:
        raise InputError(f"{archive.path}: record {name!r}: {str(error).lstrip('.')}") from error
    except RecursionError as error:
        raise InputError(f"{archive.path}: record {name!r} is nested too deeply") from error


def _payloads(archive: TorchArchive, config: str, prefix: str) -> tuple[dict[str, Any], list[str]]:
    """What the configuration of weights or constants says, and the records it names."""
    folder = config.rpartition("/")[0]
    found = dict(_json(archive, config, PAYLOADS)["config"])
    records = []
    for name, payload in found.items():
        record = f"{folder}/{payload['path_name']}"
        if not re.fullmatch(rf"{prefix}\d{{1,9}}", payload["path_name"], re.ASCII) or record not in archive.names:
            raise InputError(f"{archive.path}: record {config!r}: {name!r} lies in {payload['path_name'][:60]!r}")
        _check_extent(archive, config, name, payload["tensor_meta"], archive.size(record))
        records.append(record)
    return found, records


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
