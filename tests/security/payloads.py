"""What the hostile files of the test want to do: each way leaves the marker file, so that one look tells."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKEN = "hostile_token_3b1f"
"""Part of every payload's text: code that has it was taken from a file."""

PLANTED = "planted_module_3b1f"
"""A module on the path of the watched process; importing it leaves the marker."""


@dataclass(frozen=True)
class Case:
    """One file: its kind, what is wrong with it, and whether it must be refused or its payload must be ignored."""

    kind: str
    name: str
    path: Path
    refused: bool = True
    command: tuple[str, ...] = ()
    """Arguments of the command line that reads it too; FILE stands for the path."""


class Payload:
    """Pickles to a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def shell(marker: Path) -> str:
    return f": {TOKEN}; touch {marker}"


def system(marker: Path) -> Payload:
    return Payload(os.system, shell(marker))


def pickled(marker: Path, protocol: int = 2) -> bytes:
    return pickle.dumps(system(marker), protocol)


def planted(protocol: int = 2) -> bytes:
    """A pickle that imports the planted module, which is enough."""
    return b"\x80\x02c" + PLANTED.encode() + b"\nrun\n)R." if protocol == 2 else b""


def python(marker: Path) -> str:
    return f"__import__('os').system('{shell(marker)}')"


def records(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def archive(
    found: dict[str, bytes], *, root: str = "archive/", twice: str = "", packing: int = zipfile.ZIP_STORED
) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", packing) as out:
        warnings.simplefilter("ignore")
        for name, content in found.items():
            out.writestr(f"{root}{name}", content)
        if twice:
            out.writestr(f"{root}{twice}", found[twice])
    return file.getvalue()


def edited(content: bytes, name: str, edit: Callable[[Any], None]) -> bytes:
    """An archive with one of its JSON records edited."""
    found = records(content)
    tree = json.loads(found[name])
    edit(tree)
    found[name] = json.dumps(tree).encode()
    return archive(found)
