"""What the clients of a model rely on: inputs, outputs, the rows of a request, and how images are prepared.

Another contract breaks them, although the server loads the model without a warning. Names, types and sizes are those of
one row; a request has a fixed number of rows or any number. How many rows the server joins (`max_batch_size`) is a
setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...converters.records.json_text import parse_json
from ...converters.records.preprocessing import METADATA_KEY, Preprocessing
from ...errors import InputError
from ..repository.model_config import ModelConfig, type_name

__all__ = ["Contract", "check_contract", "contract_of", "describe_changes"]

_ABSENT = "(none)"


@dataclass(frozen=True)
class Contract:
    """One side of a comparison. Tensors are by name, as `TYPE_FP32 [3, 128, 64]`, for one row."""

    batch: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    preprocessing: Mapping[str, Any] | None
    """None where nothing states it."""


def contract_of(config: ModelConfig, *, manifest: Mapping[str, Any] | None = None) -> Contract:
    """The contract of a configuration; the preprocessing is what it states, else the version's `manifest`."""
    batch = _batch(config)
    fixed = config.max_batch_size == 0 and batch is not None
    return Contract(
        f"{batch} rows" if fixed else ("any number of rows" if config.max_batch_size > 0 else "none"),
        {entry.name: _tensor(entry, fixed) for entry in config.input},
        {entry.name: _tensor(entry, fixed) for entry in config.output},
        _preprocessing(config, manifest or {}),
    )


def _batch(config: ModelConfig) -> int | None:
    firsts = {entry.dims[0] if entry.dims else 0 for entry in (*config.input, *config.output)}
    first = firsts.pop() if len(firsts) == 1 else 0
    return int(first) if first > 0 else None


def _tensor(entry: Any, fixed: bool) -> str:
    return f"{type_name(entry.data_type)} {list(entry.dims)[1 if fixed else 0 :]}"


def _preprocessing(config: ModelConfig, manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    stated: Any = config.parameters[METADATA_KEY].string_value if METADATA_KEY in config.parameters else None
    if not stated:
        stated = manifest.get("preprocessing") or dict(manifest.get("stated") or {}).get("preprocessing")
    try:
        found = parse_json(stated) if isinstance(stated, str) and stated else stated
        return Preprocessing.from_dict(found).to_dict() if found else None
    except (ValueError, InputError):
        return {"stated": stated}


def describe_changes(before: Contract, after: Contract) -> list[str]:
    """Every difference with both sides; empty where the clients of `before` are served by `after`.

    A preprocessing that one side does not state is not a difference.
    """
    rows = [("rows of a request", before.batch, after.batch)]
    for kind, old, new in (("input", before.inputs, after.inputs), ("output", before.outputs, after.outputs)):
        rows += [(f"{kind} {name!r}", old.get(name, _ABSENT), new.get(name, _ABSENT)) for name in {**old, **new}]
    ours, theirs = before.preprocessing, after.preprocessing
    if ours is not None and theirs is not None:
        keys = {**ours, **theirs}
        rows += [(f"preprocessing, {key}", str(ours.get(key, _ABSENT)), str(theirs.get(key, _ABSENT))) for key in keys]
    return [f"{what}: served {old}, new {new}" for what, old, new in rows if old != new]


def check_contract(name: str, changes: list[str], *, new_contract: bool) -> tuple[str, ...]:
    """The changes as notes, where `new_contract` allows them.

    Raises:
        InputError: there are changes and `new_contract` is not given.
    """
    if not changes or new_contract:
        return tuple(f"new contract: {change}" for change in changes)
    lines = "".join(f"\n  {change}" for change in changes)
    raise InputError(
        f"{name}: would change what its clients rely on; publish it under another --name, or change the clients and "
        f"pass --new-contract:{lines}"
    )
