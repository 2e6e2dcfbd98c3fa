"""The result of an evaluation as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["evaluation_rows"]

_ENDS = ("tar_low", "tar_high")


def evaluation_rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and text of each number; one with a 95 % interval has its ends beside it, one not measured is a dash."""
    low, high = (values.get(name, {}) for name in _ENDS)
    return [(name, _shown(value, low.get(name), high.get(name))) for name, value in values.items() if name not in _ENDS]


def _shown(value: object, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    shown = f"{value:.4f}" if isinstance(value, float) else str(value)
    return shown if low is None or high is None else f"{shown}  (95 %: {low:.4f} to {high:.4f})"
