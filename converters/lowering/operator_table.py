"""The table that `rtool ops` prints: every operator that can be converted, and in which opsets."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from . import families
from .registry import FUSED_DOMAIN, REGISTRY, Lowering

__all__ = ["OperatorRow", "operators"]


@dataclass(frozen=True)
class OperatorRow:
    """One operator; `opsets` is text such as `7-28`."""

    operator: str
    domain: str
    opsets: str
    trainable: bool
    """Whether its weights become parameters of a layer."""


def operators() -> tuple[OperatorRow, ...]:
    """All operators, sorted by domain and name; adjacent ranges of opsets are joined."""
    families.load()
    rows: dict[tuple[str, str], list[Lowering]] = {}
    for row in REGISTRY.rows():
        if row.domain != FUSED_DOMAIN:
            rows.setdefault((row.domain, row.operator), []).append(row)
    return tuple(
        OperatorRow(operator, domain or "ai.onnx", _ranges(found), any(row.trainable for row in found))
        for (domain, operator), found in rows.items()
    )


def _ranges(rows: list[Lowering]) -> str:
    newest = onnx.defs.onnx_opset_version() if not rows[0].domain else None
    spans: list[list[int | None]] = []
    for row in rows:
        last = newest if row.until is None else row.until - 1
        if spans and spans[-1][1] is not None and row.since == spans[-1][1] + 1:
            spans[-1][1] = last
        else:
            spans.append([row.since, last])
    return ", ".join(f"{first}-{last}" if last is not None else f"{first}+" for first, last in spans)
