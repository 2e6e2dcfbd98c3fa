"""Opens a TorchScript file (`.pt`): its source and its pickles are checked, and torch reads what was checked.

torch.jit.load compiles the source in the file, runs what its pickles ask for, and reads as many numbers as they state.
What it gets from here is an archive of the records in `script_records`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from ....errors import InputError
from .archive import pack
from .forbidden_operators import registered
from .script_records import read_script

__all__ = ["load_script", "rewritten_script"]


def load_script(
    path: str | Path, keys: Iterable[str] = (), content: bytes | None = None
) -> tuple[torch.jit.ScriptModule, dict[str, str]]:
    """The module in a TorchScript file, and the texts that `export` wrote beside it under `keys`.

    `content` is the file's bytes, where they were read already; `path` then only names it.

    Raises:
        InputError: it is not TorchScript, is damaged, or calls more than operators on tensors.
    """
    read = read_script(path, registered(), content)
    records = read.all()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.load(pack(records), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # what torch raises at source that contradicts itself has no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: torch cannot read the TorchScript ({reason[:200]}); save it again") from error
    return module, read.stated(keys)


def rewritten_script(path: str | Path, content: bytes, stated: Mapping[str, str]) -> bytes:
    """The file again, of its checked records alone and with the texts `stated` by key: without positions in sources.

    Raises:
        InputError: as `load_script`.
    """
    texts = {f"extra/{key}": text.encode() for key, text in stated.items()}
    return pack({**read_script(path, registered(), content).all(), **texts}).getvalue()
