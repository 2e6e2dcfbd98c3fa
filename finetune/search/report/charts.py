"""The pictures of a search as inline SVG: curves over the epochs, and the weights of all edges as a table of shades."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from ....converters.zoo.cells.space import SearchSpace

__all__ = ["curve_chart", "share_table"]

_COLOURS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df")
_CELL, _ROW, _LABEL, _HEAD = 46, 20, 64, 24


def curve_chart(
    lines: Mapping[str, Sequence[tuple[int, float]]],
    label: str,
    levels: Mapping[str, float] | None = None,
    *,
    from_zero: bool = False,
) -> str:
    """Lines over the epochs.

    Args:
        lines: Name -> epochs, from 1, and values.
        label: Of the vertical axis.
        levels: Name -> a value that is drawn as a dashed line.
        from_zero: Whether the vertical axis begins at 0.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5.4, 3.2), layout="constrained")
    axes = figure.subplots()
    for (name, points), colour in zip(lines.items(), _COLOURS, strict=False):
        marker = "o" if len(points) < 40 else None
        axes.plot(*zip(*points, strict=True), label=name, color=colour, marker=marker, markersize=3)
    for name, value in (levels or {}).items():
        axes.axhline(value, color="#59636e", linestyle="--", linewidth=1)
        axes.annotate(name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    values = [value for points in lines.values() for _, value in points]
    if all(value == int(value) for value in values):
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if from_zero:
        axes.set_ylim(0, None)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axes.legend(fontsize=8)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def share_table(space: SearchSpace, shares: NDArray[np.floating]) -> str:
    """The weights [edges, operations] of one kind of cell: a row per edge, the darker the larger."""
    names = ["k-2", "k-1", *map(str, range(space.nodes))]
    rows = [f"{names[state]} → {node}" for node, edges in enumerate(space.node_edges) for state in range(len(edges))]
    width, height = _LABEL + _CELL * len(space.operations), _HEAD + _ROW * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-family="system-ui, sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for column, operation in enumerate(space.operations):
        at = _LABEL + _CELL * (column + 0.5)
        parts.append(f'<text x="{at}" y="16" text-anchor="middle" fill="#59636e">{escape(operation)}</text>')
    for number, name in enumerate(rows):
        top = _HEAD + _ROW * number
        parts.append(f'<text x="{_LABEL - 8}" y="{top + 14}" text-anchor="end" fill="#59636e">{name}</text>')
        best = int(np.argmax(shares[number]))
        for column, value in enumerate(shares[number].tolist()):
            shade = math.sqrt(min(max(value, 0), 1))
            ink, weight = ("#ffffff" if shade > 0.7 else "#1b1f24"), ("700" if column == best else "400")
            left = _LABEL + _CELL * column
            parts.append(
                f'<rect x="{left}" y="{top}" width="{_CELL - 1}" height="{_ROW - 1}" fill="#0969da" '
                f'fill-opacity="{shade:.3f}"/>'
                f'<text x="{left + _CELL / 2}" y="{top + 14}" text-anchor="middle" fill="{ink}" '
                f'font-weight="{weight}">{value:.2f}</text>'
            )
    return "\n".join([*parts, "</svg>"])
