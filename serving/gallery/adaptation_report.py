"""`report.html` of an adaptation: one row per round and curves over the rounds, in one self-contained page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...converters.files.atomic_file import write_atomically

__all__ = ["Round", "write_adaptation_report"]

_TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Adaptation</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse }
td, th { padding: .3rem 1rem .3rem 0; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child, td:last-child, th:last-child { text-align: left } tr.best { background: #eaf6ee }
svg { max-width: 100%; height: auto }
</style>
<h1>Adaptation without labels</h1>
<p>Stopped: {{ stopped }}. The result is the model of round {{ best }}: <code>{{ rounds[best].model }}</code>.
{% if data %}mAP and rank-1 are measured on {{ data }}, whose labels serve for nothing else.{% endif %}</p>
<table><tr><th>round</th><th>people</th><th>outliers</th><th>cohesion</th><th>changed</th><th>pairwise F</th>
<th>mAP</th><th>rank-1</th><th>gallery</th></tr>
{% for round in rounds %}<tr{% if round.number == best %} class="best"{% endif %}>
<td>{{ round.number or "source" }}</td>
<td>{{ round.people }}</td><td>{{ round.outliers }}</td><td>{{ show(round.cohesion) }}</td>
<td>{{ show(round.change) }}</td><td>{{ show(round.pair_f) }}</td><td>{{ show(round.mean_average_precision) }}</td>
<td>{{ show(round.rank1) }}</td><td><a href="round-{{ round.number }}/gallery/person_selection.html">page</a></td></tr>
{% endfor %}</table>
{% for curve in curves %}{{ curve }}{% endfor %}
</html>
"""


@dataclass(frozen=True)
class Round:
    """One model and the people it finds."""

    number: int
    """0 is the source model."""
    model: str
    people: int
    outliers: int
    """Tracks that nothing joins; they are not trained on."""
    cohesion: float | None
    change: float | None
    """1 - pairwise F between the people of the round before and these."""
    pair_f: float | None
    """With the true people, where they are known."""
    mean_average_precision: float | None
    rank1: float | None

    def __str__(self) -> str:
        parts = [f"round {self.number}: {self.people} people, {self.outliers} outliers"]
        named = (
            ("cohesion", self.cohesion),
            ("changed", self.change),
            ("pairwise F", self.pair_f),
            ("mAP", self.mean_average_precision),
            ("rank-1", self.rank1),
        )
        return ", ".join([*parts, *(f"{name} {value:.3f}" for name, value in named if value is not None)])


def write_adaptation_report(folder: Path, rounds: Sequence[Round], best: int, stopped: str, data: str | None) -> Path:
    """Write `report.html`.

    Args:
        folder: Of the adaptation.
        rounds: In their order, from 0.
        best: The round whose model is the result.
        stopped: Why there are no more.
        data: What mAP is measured on.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    curves: dict[str, Sequence[float | None]] = {
        "people found": [float(item.people) for item in rounds],
        "cohesion": [item.cohesion for item in rounds],
        "pairwise F": [item.pair_f for item in rounds],
        "mAP": [item.mean_average_precision for item in rounds],
    }
    drawn = [Markup(_curve(name, values)) for name, values in curves.items() if any(v is not None for v in values)]
    text = (
        Environment(autoescape=True)
        .from_string(_TEMPLATE)
        .render(
            rounds=rounds,
            best=best,
            stopped=stopped,
            data=data,
            curves=drawn,
            show=lambda value: "" if value is None else f"{value:.3f}",
        )
    )
    path = folder / "report.html"
    write_atomically(path, text.encode())
    return path


def _curve(title: str, values: Sequence[float | None]) -> str:
    """One curve over the rounds as inline SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 2.6), layout="constrained")
    axes = figure.subplots()
    known = [(number, value) for number, value in enumerate(values) if value is not None]
    axes.plot(*zip(*known, strict=True), marker="o")
    axes.set_title(title, loc="left")
    axes.set_xlabel("round")
    axes.set_xticks(range(len(values)))
    axes.grid(alpha=0.3)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]
