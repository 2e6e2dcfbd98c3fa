"""`report.html` of an evaluation: figures, curves and example images in one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..comparison import NOISE, Difference
from ..measuring import Measured
from ..ranks.retrieval import RankedRetrieval
from ..standalone.pair_evaluation import MeasuredPairs
from .charts import cmc_chart, roc_chart, score_chart
from .entries import MeasuredSet
from .examples import RankedQuery, ShownPair, contested_pairs, hardest_pairs, ranked_queries
from .page_template import PAGE_TEMPLATE
from .pair_section import hardest_scored_pairs, pair_charts, pair_table
from .style import PAGE_STYLE

__all__ = ["render_page"]

_SCORED_QUERIES = 200
"""Queries whose similarities to the whole gallery make the histogram."""


@dataclass(frozen=True)
class _Section:
    """One set on the page."""

    title: str
    protocol: str
    cards: list[tuple[str, str]]
    charts: list[tuple[str, str]]
    """Caption and SVG."""
    differences: list[tuple[str, str, str, str, str, str]]
    same: list[ShownPair]
    different: list[ShownPair]
    queries: list[RankedQuery]
    contested: list[ShownPair] = field(default_factory=list)
    """Of two models: the pairs on which they differ most."""
    masks: str = ""
    """What masks are drawn, of a pair evaluation."""
    hard_by: str = "cosine"
    """The score by which pairs are hard."""
    table: tuple[list[str], list[list[str]]] = ([], [])
    """Head and rows of the figures of several scores."""


def render_page(sets: Sequence[MeasuredSet], facts: Mapping[str, str], rows: Sequence[tuple[str, str]]) -> str:
    """The page as HTML text, every value escaped.

    Args:
        sets: What was measured.
        facts: What is known of the model, such as its reference and the command.
        rows: Name and text of each figure.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(PAGE_TEMPLATE)
    sections = [_section(each) for each in sets]
    return page.render(
        style=Markup(PAGE_STYLE),
        markup=Markup,
        title=Path(facts["model"]).name,
        facts=facts,
        sections=sections,
        rows=rows,
    )


def _section(entry: MeasuredSet) -> _Section:
    measured = entry.measured
    same: list[ShownPair] = []
    different: list[ShownPair] = []
    contested: list[ShownPair] = []
    queries: list[RankedQuery] = []
    if entry.pairs is not None:
        return _pair_section(entry, entry.pairs)
    if measured.compared is not None:
        same, different = hardest_pairs(measured.dataset, measured.compared)
        if entry.other is not None and entry.other.compared is not None:
            contested = contested_pairs(measured.dataset, measured.compared, entry.other.compared)
    if measured.ranked is not None:
        queries = ranked_queries(measured, measured.ranked)
    return _Section(
        title=f"{entry.name}: {measured.dataset.name}" if entry.name else measured.dataset.name,
        protocol=f"{measured.result.protocol}, {measured.dataset}",
        cards=_cards(entry),
        charts=_charts(entry),
        differences=[_difference(each) for each in entry.differences],
        same=same,
        different=different,
        queries=queries,
        contested=contested,
    )


def _pair_section(entry: MeasuredSet, pairs: MeasuredPairs) -> _Section:
    score = pairs.main_score
    result = pairs.result.results[score]
    same, different = hardest_scored_pairs(pairs)
    name = entry.measured.dataset.name
    listed = "listed pairs" if pairs.listed else "all unordered pairs"
    return _Section(
        title=f"{entry.name}: {name}" if entry.name else name,
        protocol=f"verification by {', '.join(pairs.result.results)}; {listed} of {entry.measured.dataset}",
        cards=[
            (_shown(getattr(result, key)), f"{score}: {key.replace('tar_at_far_1e', 'VR at FAR 1e-')}")
            for key in ("accuracy", "tar_at_far_1e2", "tar_at_far_1e3", "auc")
        ],
        charts=pair_charts(pairs),
        differences=[],
        same=same,
        different=different,
        queries=[],
        masks=str(pairs.settings.masks),
        hard_by=score,
        table=pair_table(pairs),
    )


def _cards(entry: MeasuredSet) -> list[tuple[str, str]]:
    """The figures that matter most, as text and name."""
    values = entry.values
    wanted = {
        "retrieval": ("mAP", "rank1", "mINP", "queries"),
        "verification": ("accuracy", "tar_at_far_1e3", "eer", "auc"),
        "templates": ("tar_at_far_1e4", "tar_at_far_1e5", "auc", "templates"),
        "classification": ("top1", "top5", "mean_class_accuracy", "images"),
    }.get(values["protocol"], tuple(name for name in values if name != "protocol")[:4])
    return [(_shown(values[name]), name.replace("tar_at_far_1e", "TAR at FAR 1e-")) for name in wanted]


def _shown(value: object) -> str:
    if value is None:
        return "not measured"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _charts(entry: MeasuredSet) -> list[tuple[str, str]]:
    measured, other = entry.measured, entry.other
    if measured.compared is not None:
        curve = measured.compared.curve
        curves = {"model": curve}
        if other is not None and other.compared is not None:
            curves["compared with"] = other.compared.curve
        return [
            ("ROC: share of same pairs accepted, over the share of different pairs accepted", roc_chart(curves)),
            ("Similarity of same and of different pairs", score_chart(curve.same, curve.different, "cosine")),
        ]
    if measured.ranked is None:
        return []
    ranks = {"model": _first(measured.ranked)}
    if other is not None and other.ranked is not None:
        ranks["compared with"] = _first(other.ranked)
    same, different = _similarities(measured, measured.ranked)
    ranking = measured.plan.ranking
    what = "distance, as ranked"
    if ranking.distance == "cosine" and not ranking.rerank:
        same, different, what = -same, -different, "cosine"
    return [
        ("CMC: share of queries with a match among the nearest", cmc_chart(ranks)),
        (f"Queries and their matches, queries and other people: {what}", score_chart(same, different, what)),
    ]


def _first(ranked: RankedRetrieval) -> NDArray[np.int64]:
    return ranked.ranks.first[ranked.ranks.measured]


def _similarities(measured: Measured, ranked: RankedRetrieval) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Distances of some queries to their matches, and to images of others; each query's own scale is kept."""
    asked = np.flatnonzero(ranked.ranks.measured)
    asked = asked[np.linspace(0, len(asked) - 1, min(_SCORED_QUERIES, len(asked))).astype(np.int64)]
    same, different = [], []
    gallery = measured.dataset.identities[measured.plan.gallery]
    for query in asked.tolist():
        distances = ranked.distances(slice(query, query + 1))[0]
        matches, _ = ranked.matches.of(query)
        same.append(distances[matches])
        different.append(distances[gallery != ranked.identities[query]])
    return np.concatenate(same), np.concatenate(different)


def _difference(found: Difference) -> tuple[str, str, str, str, str, str]:
    verdict = ("better" if found.value > found.other else "worse") if found.beyond_noise else NOISE
    return (
        found.metric,
        f"{found.value:.4f}",
        f"{found.other:.4f}",
        f"{found.value - found.other:+.4f}",
        f"{found.low:+.4f} to {found.high:+.4f}",
        verdict,
    )
