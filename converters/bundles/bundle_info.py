"""The files of a bundle, and what its `bundle.json` says; read without torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..files.model_file import ModelSource
from ..records.json_text import parse_json
from ..records.preprocessing import Preprocessing
from ..records.record import ParameterSource

__all__ = [
    "FORMAT",
    "GRAPH",
    "INFO",
    "SOURCE",
    "SUPERNET",
    "WEIGHTS",
    "bundle_mapping",
    "bundle_name",
    "bundle_preprocessing",
    "bundle_source",
    "is_bundle",
    "read_info",
    "understood",
]

FORMAT = 1
GRAPH, WEIGHTS, SOURCE, INFO = "graph.onnx", "weights.safetensors", "model.py", "bundle.json"

SUPERNET = "supernet"
"""The architecture that a checkpoint of a search states: no network of its own, but weights to continue the search."""

_TIME = re.compile(r"\d{8}-\d{6}")
"""Start of the name of a run folder."""


def is_bundle(path: str | Path) -> bool:
    """Whether `path` is a folder with a `bundle.json`."""
    return (Path(path) / INFO).is_file()


def read_info(folder: Path) -> dict[str, Any]:
    """The whole of `bundle.json`.

    Raises:
        InputError: not a bundle, or one of a newer format.
    """
    file = folder / INFO
    try:
        info = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: expected a bundle, got a folder without {INFO}; run `rtool onnx2torch`") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error}); make the bundle again") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        found = info.get("format") if isinstance(info, dict) else type(info).__name__
        raise InputError(f"{file}: expected bundle format {FORMAT}, got {found}; update rtool")
    return info


@contextmanager
def understood(file: Path) -> Iterator[None]:
    """Report the failure of reading a damaged or edited `bundle.json` as a message."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: not as rtool writes it ({error!r}); make the bundle again") from error


def bundle_mapping(folder: Path, info: Mapping[str, Any]) -> dict[str, ParameterSource]:
    """Parameter or buffer -> the value of the graph that it was made from."""
    with understood(folder / INFO):
        return {name: ParameterSource(**entry) for name, entry in info["mapping"].items()}


def bundle_preprocessing(folder: Path, info: Mapping[str, Any]) -> Preprocessing | None:
    """The stored preprocessing, if there is one."""
    with understood(folder / INFO):
        return Preprocessing.from_dict(info["preprocessing"]) if info.get("preprocessing") else None


def bundle_source(folder: Path, info: Mapping[str, Any]) -> ModelSource:
    """Name and digest of the ONNX file that the bundle was made from."""
    with understood(folder / INFO):
        return ModelSource(str(info["source"]["name"]), None, info["source"]["sha256"])


def bundle_name(bundle: Path) -> str:
    """The bundle's own name; of a checkpoint, which is called `best` in every run, that of the run.

    The folder of a run is `output/NAME/TIME/`.
    """
    folder = bundle.absolute().parent
    if folder.name != "checkpoints":
        return bundle.name
    run = folder.parent.resolve()
    return run.parent.name if _TIME.match(run.name) and run.parent.name else run.name
