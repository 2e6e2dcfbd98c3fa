"""The result of an evaluation as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["evaluation_rows"]

_LOW, _HIGH = ("tar_low", "low"), ("tar_high", "high")
_BESIDE = (*_LOW, *_HIGH, "impostors")


def evaluation_rows(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Name and text of each number; intervals and impostors stand beside what they belong to.

    One that was not measured is a dash. `prefix` stands before each name.
    """
    low = {key: end for name in _LOW for key, end in values.get(name, {}).items()}
    high = {key: end for name in _HIGH for key, end in values.get(name, {}).items()}
    impostors, different = values.get("impostors", {}), values.get("different_pairs", 0)
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if name in _BESIDE:
            continue
        if isinstance(value, Mapping):
            rows += evaluation_rows(value, f"{prefix}{name}.")
            continue
        beside = [f"95 %: {low[name]:.4f} to {high[name]:.4f}"] if low.get(name) is not None else []
        if name in impostors:
            beside.append(f"{impostors[name]:,} of {different:,} impostor pairs pass")
        rows.append((f"{prefix}{name}", _shown(value) + (f"  ({'; '.join(beside)})" if beside else "")))
    return rows


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
