"""Opens an exported program (`.pt2`): every record is checked, and torch reads what was checked.

torch.export.load unpickles, loads shared libraries, resolves operators by attribute look-ups and evaluates
expressions, as its documentation warns. What it gets from here is an archive of the records in `program_records`.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ....errors import InputError
from .archive import pack
from .operators import has_overload
from .program_records import SAMPLES, ProgramRecords, read_program

__all__ = ["load_program"]

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
    read = read_program(path, content)
    for target in _targets(read.program):
        if not has_overload(target):
            raise InputError(f"{path}: it calls {target[:100]!r}, an operator that this torch has not; export it again")
    records = {**read.texts, SAMPLES: _samples(read)}
    records |= {name: read.archive.read(name) for name in read.numbers}
    stated = read.stated(keys)
    logged: list[str] = []
    try:
        with warnings.catch_warnings(), _kept_from_the_terminal(logged):
            warnings.simplefilter("ignore")
            program = torch.export.load(pack(records))
            module = program.module()
    except Exception as error:  # what torch raises at a program that contradicts itself has no common base
        lines = ("\n".join(logged) or str(error)).strip().splitlines()
        reason = lines[-1 if logged else 0] if lines else type(error).__name__
        raise InputError(f"{path}: torch cannot read the program ({reason[:200]}); export it again") from error
    return program, module, stated


@contextmanager
def _kept_from_the_terminal(logged: list[str]) -> Iterator[None]:
    """What torch logs of a failure, with its traceback, goes into `logged`; the error that it raises has no cause."""

    def keep(record: logging.LogRecord) -> bool:
        cause = record.exc_info[1] if record.exc_info else None
        logged.append(record.getMessage() if cause is None else str(cause))
        return False

    logger = logging.getLogger("torch.export")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _targets(value: Any) -> Iterator[str]:
    """What the nodes of a program call, those of graphs inside it included."""
    if isinstance(value, dict):
        if isinstance(value.get("target"), str):
            yield value["target"]
        for inner in value.values():
            yield from _targets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _targets(inner)


def _samples(read: ProgramRecords) -> bytes:
    """The sample inputs, written again; torch falls back to a full unpickling where it cannot read the file's own."""
    found = read.samples()
    if found is None:
        return b""
    path = read.archive.path
    try:
        packed = pack({"data.pkl": found.pickle, **found.numbers})
        samples = torch.load(packed, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives have no common base
        raise InputError(f"{path}: its sample inputs cannot be read ({str(error)[:200]})") from error
    left = [_MOST_SAMPLES]
    if not isinstance(samples, tuple) or len(samples) != 2 or not _is_plain(samples, left):
        raise InputError(f"{path}: its sample inputs are not tensors in tuples, lists and dictionaries")
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
