"""The page of a search: whether it decided anything, the found cell, curves, brief and full trainings."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....converters.records.json_text import parse_json
from ....converters.zoo.cells.genotype import Genotype
from ....converters.zoo.cells.pictures import cell_svg
from ...evaluation.report.style import PAGE_STYLE
from ..searching import undecided_from
from .charts import curve_chart, share_table
from .comparison import ComparedNetwork, found_percentile
from .page_template import PAGE_TEMPLATE
from .search_record import SearchRecord, read_search

__all__ = ["write_search_report"]

_METRICS = ("mAP", "rank1", "top1", "accuracy")
"""Of a network trained in full, those that are shown where they were measured, in this order."""
_KINDS = {"normal": "normal cell", "reduce": "reduction cell"}


@dataclass(frozen=True)
class _Verdict:
    kind: str
    """yes, no, or neither."""
    text: str


def write_search_report(run: Path) -> Path:
    """Write `report.html` into the folder of a run with a section `search`, from the files that it left.

    Args:
        run: The run folder, with a search that has ended or was stopped.

    Raises:
        InputError: a file of it is not what a search writes.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    record = read_search(run)
    environment = parse_json((run / "env.json").read_text(encoding="utf-8"))
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(PAGE_TEMPLATE)
    text = page.render(
        style=Markup(PAGE_STYLE),
        markup=Markup,
        title=f"{run.parent.name} {run.name}",
        lead=_lead(record),
        verdict=_verdict(record),
        cards=_cards(record),
        pictures=_pictures(record.genotype),
        charts=_charts(record),
        tables=_tables(record),
        shortlist=_shortlist(record),
        shortlist_lead=_shortlist_lead(record),
        rounds=_rounds(record),
        environment={key: _shown(value) for key, value in environment.items()},
        config=(run / "config.yaml").read_text(encoding="utf-8"),
        commands=_commands(run),
        **_compared(record.compared),
    )
    path = run / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def _lead(record: SearchRecord) -> str:
    search = record.search
    space = f"{search.cells} cells of {search.nodes} nodes, {search.channels} channels, {search.stem}"
    how = "" if search.method == "random" else f", order {search.order}, guard {search.guard}"
    return f"{', '.join(search.operations)}; {space}; method {search.method}{how}"


def _verdict(record: SearchRecord) -> _Verdict:
    """Whether alpha decided anything, in a sentence."""
    if record.search.method == "random":
        return _Verdict("", "Cells drawn at random, the best by brief trainings; there is no alpha to decide anything.")
    entropy, count = record.entropy, len(record.search.operations)
    if entropy is None:
        return _Verdict("", "The search has no epoch behind it yet.")
    most, limit = math.log(count), undecided_from(count)
    numbers = f"the mean entropy of its edges is {entropy:.3f}; equal shares have {most:.3f}"
    if entropy >= limit:
        return _Verdict(
            "no",
            f"Alpha decided nothing: {numbers}, and from {limit:.3f} on, {limit / most:.1g} of that, an argmax is "
            "chance. The cell below is worth what its training from scratch shows, and no more.",
        )
    return _Verdict(
        "yes", f"Alpha decided: {numbers}, and below {limit:.3f}, {limit / most:.1g} of that, it prefers some."
    )


def _cards(record: SearchRecord) -> list[tuple[str, str]]:
    cards = []
    if record.entropy is not None:
        cards.append((f"{record.entropy:.3f}", f"entropy of {math.log(len(record.search.operations)):.3f}"))
    if record.genotype is not None:
        facts = record.genotype.facts
        cards.append((str(record.genotype.skips["normal"]), "skips in the normal cell"))
        for name, key in (("parameters", "parameters"), ("MACs per image", "macs")):
            if key in facts:
                cards.append((_large(facts[key]), name))
        cards.append((str(facts.get("source", "-")), "chosen by"))
    for name, text in (("gap", "lost by dropping the others"), ("expected_ms", "expected ms per image")):
        if name in record.curves:
            cards.append((f"{record.curves[name][-1][1]:.3g}", text))
    return cards


def _pictures(genotype: Genotype | None) -> list[str]:
    return [] if genotype is None else [cell_svg(genotype, cell) for cell in _KINDS]


def _charts(record: SearchRecord) -> list[tuple[str, str]]:
    curves, charts = record.curves, []
    if "entropy" in curves:
        count = len(record.search.operations)
        levels = {"equal shares": math.log(count), "nothing decided above": undecided_from(count)}
        charts.append(
            (
                "Mean entropy of the operations' shares, in nats",
                curve_chart({"entropy": curves["entropy"]}, "entropy", levels, from_zero=True),
            )
        )
    skips = {_KINDS[cell]: curves[f"skips/{cell}"] for cell in _KINDS if f"skips/{cell}" in curves}
    if skips:
        charts.append(("Skip connections of each cell, as alpha says it", curve_chart(skips, "skips", from_zero=True)))
    if "gap" in curves:
        caption = f"{record.measured} of the supernet, and with only the chosen operations: the discretisation gap"
        both = {"supernet": curves["supernet"], "chosen alone": curves["discretised"]}
        charts.append((caption, curve_chart(both, record.measured)))
    if "expected_ms" in curves:
        target = record.search.cost.target_ms
        levels = {} if target is None else {"target": target}
        chart = curve_chart({"expected": curves["expected_ms"]}, "ms", levels, from_zero=True)
        charts.append(("Expected latency of one image by the table of measured operations", chart))
    if "eigenvalue" in curves:
        chart = curve_chart({"eigenvalue": curves["eigenvalue"]}, "eigenvalue")
        charts.append(("Largest eigenvalue of the Hessian of alpha's loss", chart))
    return charts


def _tables(record: SearchRecord) -> list[tuple[str, str]]:
    if record.shares is None:
        return []
    space = record.search.space()
    return [
        (f"{name}s", share_table(space, shares)) for name, shares in zip(_KINDS.values(), record.shares, strict=True)
    ]


def _shortlist_lead(record: SearchRecord) -> str:
    return (
        f"{record.ranked_by} on held-out training identities, from fresh weights; one training each, so small "
        "differences are noise."
    )


def _rounds(record: SearchRecord) -> list[str]:
    most = max((len(row.metrics) for row in record.shortlist), default=0)
    return [record.ranked_by if most == 1 else f"round {number + 1}" for number in range(most)]


def _shortlist(record: SearchRecord) -> list[dict[str, Any]]:
    most = max((len(row.metrics) for row in record.shortlist), default=0)
    return [
        {
            "origin": row.origin,
            "found": row.found,
            "metrics": [*(_number(value) for value in row.metrics), *[""] * (most - len(row.metrics))],
            "skips": row.genotype.skips["normal"],
            "cell": "; ".join(
                f"{node}: " + " + ".join(f"{operation}({state})" for operation, state in edges)
                for node, edges in enumerate(row.genotype.normal)
            ),
        }
        for row in record.shortlist
    ]


def _compared(compared: Sequence[ComparedNetwork]) -> dict[str, Any]:
    """The table of networks trained in full."""
    metrics = [name for name in _METRICS if any(each.mean(name) is not None for each in compared)]
    rows = [
        {
            "name": each.name,
            "role": each.role,
            "found": each.role == "found",
            "parameters": _large(each.parameters),
            "macs": _large(each.macs),
            "ms": "" if each.latency_ms is None else f"{each.latency_ms:.2f}",
            "seeds": len(each.metrics),
            "metrics": [_spread(each.mean(name), each.deviation(name)) for name in metrics],
        }
        for each in compared
    ]
    percentile = found_percentile(compared, metrics[0]) if metrics else None
    return {"compared": rows, "metrics": metrics, "percentile": "" if percentile is None else str(percentile)}


def _commands(run: Path) -> str:
    found = shlex.quote(f"model.options={{genotype: {run}/search/genotype.json}}")
    return (
        f"rtool finetune RECIPE.yaml model.reference=searched {found} seed=0   # and seed=1, seed=2\n"
        f"rtool bench search {shlex.quote(str(run))} RUN RUN ...   # the runs of all networks"
    )


def _spread(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return ""
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4f}"


def _large(value: int) -> str:
    """A count in thousands, millions or billions."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}\u00a0{unit}"
    return str(value)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return shlex.join(map(str, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return "-" if value is None else str(value)
