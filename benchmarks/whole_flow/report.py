"""The demo's report: the summary as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...finetune.evaluation.report.style import PAGE_STYLE
from .rank_figure import Figure
from .summary import DemoSummary

__all__ = ["render_report"]

_TEMPLATE = Path(__file__).with_name("report.html.j2")


def render_report(summary: DemoSummary, figures: Sequence[Figure], *, title: str, command: str) -> str:
    """The report as HTML text, with every value escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(style=Markup(PAGE_STYLE), summary=summary, figures=figures, title=title, command=command)
