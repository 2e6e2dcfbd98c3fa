"""`report.html` of a run: outcome, curves, example images, environment and configuration in one self-contained page.

A view of metrics.jsonl, env.json and config.yaml, made when a run ends; the page holds no data of its own.
"""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ...converters.records.json_text import parse_json
from .gain import compared_metrics
from .run_folder import read_metrics
from .tracking import flatten_record

__all__ = ["write_run_report"]

_TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ name }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } td, th { padding: .15rem .8rem .15rem 0; text-align: left }
pre { background: #f5f5f5; padding: 1rem; overflow-x: auto } img, svg { max-width: 100%; height: auto }
</style>
<h1>{{ name }}</h1>
<h2>Outcome</h2>
<table>{% for key, value in outcome.items() %}<tr><th>{{ key }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
{% if compared %}<h2>Before and after</h2>
<table><tr><th></th><th>source model</th><th>best checkpoint</th><th>difference</th></tr>
{% for name, before, after, difference in compared %}<tr><th>{{ name }}</th><td>{{ before }}</td><td>{{ after }}</td>
<td>{{ difference }}</td></tr>{% endfor %}</table>{% endif %}
{% if curves %}<h2>Curves</h2>
{% for curve in curves %}{{ curve }}{% endfor %}{% endif %}
{% if sheet %}<h2>Training images as the network saw them</h2>
<img alt="first batch" src="data:image/png;base64,{{ sheet }}">{% endif %}
<h2>Environment</h2>
<table>{% for key, value in environment.items() %}<tr><th>{{ key }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
<h2>Configuration</h2>
<pre>{{ config }}</pre>
</html>
"""


_SPREADS = ("accuracy_std",)
"""Metrics that are spreads, not levels, and are not drawn."""


def write_run_report(run: Path, outcome: Mapping[str, Any], metric: str, sheet: Image.Image | None) -> Path:
    """Write `report.html` into the folder of a run that has ended.

    Args:
        run: The run folder.
        outcome: What result.json says.
        metric: The metric that chooses the best checkpoint.
        sheet: The contact sheet of training images; None shows none.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    records = read_metrics(run)
    environment = parse_json((run / "env.json").read_text(encoding="utf-8"))
    page = Environment(autoescape=True).from_string(_TEMPLATE)
    text = page.render(
        name=f"{run.parent.name} {run.name}",
        outcome={key: _shown(value) for key, value in _flat(outcome).items()},
        compared=[
            (name, f"{before:.4f}", f"{after:.4f}", f"{difference:+.4f}")
            for name, before, after, difference in compared_metrics(records, metric)
        ],
        curves=[Markup(_curve(name, points)) for name, points in _series(records).items()],
        sheet=_as_base64(sheet) if sheet is not None else "",
        environment={key: _shown(value) for key, value in environment.items()},
        config=(run / "config.yaml").read_text(encoding="utf-8"),
    )
    path = run / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def _series(records: list[dict[str, Any]]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Curves by picture: the losses together, the learning rate, and the shares among the evaluation's numbers."""
    pictures: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for record in records:
        for name, value in flatten_record(record):
            if record["kind"] == "train" and name.startswith("losses/"):
                picture, line = "losses", name.removeprefix("losses/")
            elif record["kind"] == "train" and name == "lr":
                picture, line = "learning rate", name
            elif record["kind"] == "evaluation" and isinstance(record.get(name), float) and name not in _SPREADS:
                picture, line = "held-out data", name
            else:
                continue
            pictures.setdefault(picture, {}).setdefault(line, []).append((record["step"], value))
    return pictures


def _curve(title: str, lines: Mapping[str, list[tuple[int, float]]]) -> str:
    """One picture as inline SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.8))
    axes = figure.subplots()
    figure.subplots_adjust(
        left=0.08, right=0.98, top=0.88, bottom=0.17
    )  # a layout that is computed takes twice the time
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), label=name, marker="o" if len(points) < 40 else None, markersize=3)
    axes.set_title(title, loc="left")
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper right")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def _flat(outcome: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in outcome.items():
        flat.update(value if isinstance(value, Mapping) else {key: value})
    return flat


def _shown(value: Any) -> str:
    """A value for people: a command as one types it, a number with the digits that matter."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return shlex.join(map(str, value))
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    return "-" if value is None else str(value)


def _as_base64(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
