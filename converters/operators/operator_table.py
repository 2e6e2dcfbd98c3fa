"""The table that `rtool ops` prints: every operator that can be converted, and in which opsets."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from ...errors import InputError, nearest
from .rows import ROWS
from .support import FUSED_DOMAIN, OperatorSupport

__all__ = ["OperatorRow", "OperatorTable", "ops"]


@dataclass(frozen=True)
class OperatorRow:
    """One operator; `opsets` is text such as `7-28`."""

    operator: str
    domain: str
    opsets: str
    trainable: bool
    """Whether its weights become parameters of a layer."""


@dataclass(frozen=True)
class OperatorTable:
    """The operators that `ops` found."""

    operators: tuple[OperatorRow, ...]


def ops(operator: str | None = None) -> OperatorTable:
    """All operators that can be converted, or only `operator`, sorted by domain and name; adjacent opsets are joined.

    Raises:
        InputError: `operator` cannot be converted.

    Examples:
        >>> rtool.ops("Conv").operators[0].opsets
        '1-28'
    """
    rows: dict[tuple[str, str], list[OperatorSupport]] = {}
    for row in ROWS:
        if row.domain != FUSED_DOMAIN:
            rows.setdefault((row.domain, row.operator), []).append(row)
    chosen = {key: found for key, found in rows.items() if operator in (None, key[1])}
    if not chosen:
        hint = nearest(str(operator), {name for _, name in rows})
        raise InputError(f"{operator}: this operator cannot be converted; {hint}")
    return OperatorTable(
        tuple(
            OperatorRow(name, domain or "ai.onnx", _ranges(found), any(row.trainable for row in found))
            for (domain, name), found in chosen.items()
        )
    )


def _ranges(rows: list[OperatorSupport]) -> str:
    newest = onnx.defs.onnx_opset_version() if not rows[0].domain else None
    spans: list[list[int | None]] = []
    for row in rows:
        last = newest if row.until is None else row.until - 1
        if spans and spans[-1][1] is not None and row.since == spans[-1][1] + 1:
            spans[-1][1] = last
        else:
            spans.append([row.since, last])
    return ", ".join(f"{first}-{last}" if last is not None else f"{first}+" for first, last in spans)
