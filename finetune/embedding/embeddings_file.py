"""Embeddings and the names of their images as a file: `.npz`, `.npy` or `.parquet`.

    OUT.npz      names      text [N]                 embeddings  float32 [N, D]     metadata  JSON text
    OUT.npy      embeddings float32 [N, D]; the names in OUT.npy.json: {"names": [...], "metadata": {...}}
    OUT.parquet  columns    name (text)              embedding   (fixed list of D float32); metadata in the schema

No pickle in any of them: `numpy.load(path)` reads the first two.
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.files.atomic_file import check_file_output, write_together
from ...errors import InputError, PlatformError

__all__ = ["check_embeddings_output", "write_embeddings"]

_SUFFIXES = (".npz", ".npy", ".parquet")


def check_embeddings_output(path: Path, *, overwrite: bool, sources: Sequence[Path]) -> None:
    """Refuse, before any work, a file that cannot or must not be written.

    Raises:
        InputError: another suffix, a file that is there already, a read-only folder, or one of `sources`.
        PlatformError: Parquet without pyarrow.
    """
    if path.suffix not in _SUFFIXES:
        raise InputError(f"{path}: expected a name ending in {', '.join(_SUFFIXES)}")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise PlatformError(f"{path}: Parquet is written by pyarrow, which is not installed: pip install pyarrow")
    check_file_output(path, sources=sources)
    for file in (path, _names_path(path)):
        if file.exists() and not overwrite and (file == path or path.suffix == ".npy"):
            raise InputError(f"{file}: already exists; choose another output or pass --overwrite")


def write_embeddings(
    path: Path, names: Sequence[str], embeddings: NDArray[np.float32], metadata: Mapping[str, Any]
) -> None:
    """Write `embeddings` [N, D] of `names` [N], whole or not at all.

    Raises:
        InputError: the disk is full or the folder not writable; nothing is left behind.
    """
    buffer = io.BytesIO()
    if path.suffix == ".parquet":
        _write_parquet(buffer, names, embeddings, metadata)
        write_together({path: buffer.getvalue()})
    elif path.suffix == ".npy":
        np.save(buffer, embeddings, allow_pickle=False)
        listed = json.dumps({"names": list(names), "metadata": dict(metadata)}, indent=2) + "\n"
        write_together({path: buffer.getvalue(), _names_path(path): listed.encode()})
    else:
        text = np.array(list(names), dtype=np.str_) if names else np.zeros(0, dtype="U1")
        np.savez(buffer, names=text, embeddings=embeddings, metadata=np.array(json.dumps(dict(metadata))))
        write_together({path: buffer.getvalue()})


def _names_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _write_parquet(
    buffer: io.BytesIO, names: Sequence[str], embeddings: NDArray[np.float32], metadata: Mapping[str, Any]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    width = embeddings.shape[1]
    column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), width)
    table = pa.table({"name": pa.array(list(names), pa.string()), "embedding": column})
    pq.write_table(table.replace_schema_metadata({"rtool": json.dumps(dict(metadata))}), buffer)
