"""The curves of an evaluation as inline SVG: ROC, histograms of scores, CMC."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..pairs.receiver_curve import ReceiverCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cmc_chart", "roc_chart", "score_chart"]

_GOOD, _BAD, _COLOURS = "#1a7f37", "#cf222e", ("#0969da", "#bc4c00", "#1a7f37")
_DEEPEST = 50
_POINTS = 400


def roc_chart(curves: Mapping[str, ReceiverCurve]) -> str:
    """TAR over FAR of each model or score by name, FAR on a logarithmic axis from one impostor pair on."""
    figure, axes = _axes("FAR", "TAR")
    for (name, curve), colour in zip(curves.items(), _COLOURS, strict=False):
        fars = np.geomspace(1 / max(len(curve.different), 2), 1, _POINTS)
        tars = [curve.true_accept_rate(float(far)) for far in fars]
        axes.step(fars, tars, where="post", color=colour, label=f"{name}: AUC {curve.area():.4f}")
    first = next(iter(curves.values()))
    axes.set_xscale("log")
    axes.set_xlim(1 / max(len(first.different), 2), 1)
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=8, loc="upper left")
    return _svg(figure)


def score_chart(same: NDArray[np.floating], different: NDArray[np.floating], what: str) -> str:
    """Histograms of the scores of same and of different pairs, each with area 1."""
    figure, axes = _axes(what, "density")
    low, high = min(same.min(), different.min()), max(same.max(), different.max())
    bins = np.linspace(low, high if high > low else low + 1e-6, 61).tolist()
    for scores, name, colour in ((same, "same", _GOOD), (different, "different", _BAD)):
        label = f"{name}: {len(scores):,} pairs"
        axes.hist(scores, bins=bins, density=True, histtype="stepfilled", alpha=0.35, color=colour, label=label)
        axes.hist(scores, bins=bins, density=True, histtype="step", color=colour)
    axes.legend(fontsize=8)
    return _svg(figure)


def cmc_chart(first_ranks: Mapping[str, NDArray[np.int64]]) -> str:
    """Share of queries whose first match, at ranks from 0 int64 [n], is among the k nearest, for each model by name."""
    figure, axes = _axes("rank", "share of queries")
    depths = np.arange(1, _DEEPEST + 1)
    for (name, ranks), colour in zip(first_ranks.items(), _COLOURS, strict=False):
        shares = np.searchsorted(np.sort(ranks), depths, side="left") / len(ranks)
        axes.plot(depths, shares, color=colour, label=name)
    axes.set_xlim(1, _DEEPEST)
    axes.set_ylim(None, 1.01)
    axes.set_xticks([1, 5, 10, 20, 30, 40, 50])
    axes.legend(fontsize=8, loc="lower right")
    return _svg(figure)


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
