"""When a field of the section `search` has no effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..search import SearchConfig
from .conditions import Check, first

__all__ = ["ALWAYS_OF_SEARCH", "IDLE_OF_SEARCH"]


def _unless(wanted: Callable[[SearchConfig], bool], reason: str) -> Check:
    """A field of `search`, or of a section in it, that needs another field of `search`."""
    return lambda _section, config, _facts: None if config.search is None or wanted(config.search) else reason


_WITH_ALPHA = _unless(lambda search: search.method != "random", "search.method random has no alpha")
_RANKED = _unless(
    lambda search: search.method == "random" or search.shortlist > 1, "search.shortlist is 1, so no cell is ranked"
)
_COSTED = _unless(lambda search: search.cost.weight > 0, "search.cost.weight is 0, so no cell is penalised")

IDLE_OF_SEARCH: Mapping[str, Check] = {
    "search.order": _WITH_ALPHA,
    "search.split": _WITH_ALPHA,
    "search.warmup": _WITH_ALPHA,
    "search.alpha.lr": _WITH_ALPHA,
    "search.alpha.betas": _WITH_ALPHA,
    "search.alpha.weight_decay": first(
        _WITH_ALPHA, _unless(lambda search: search.guard != "beta", "search.guard beta takes its place")
    ),
    "search.guard": _WITH_ALPHA,
    "search.guard_weight": first(
        _WITH_ALPHA, _unless(lambda search: search.guard != "none", "search.guard is none, which has no strength")
    ),
    "search.most_skips": _unless(lambda search: "skip" in search.operations, "search.operations has no skip"),
    "search.stop": _WITH_ALPHA,
    "search.temperature": _unless(
        lambda search: search.method == "sampled", "only sampled paths have a temperature; search.method is another"
    ),
    "search.cost.table": _WITH_ALPHA,
    "search.cost.target_ms": first(_WITH_ALPHA, _COSTED),
    "search.cost.weight": _WITH_ALPHA,
    "search.perturbation_steps": _unless(
        lambda search: search.choose == "perturbation", "search.choose is argmax, which trains nothing on"
    ),
    "search.shortlist_steps": first(
        _unless(lambda search: search.method != "random", "search.method random has a budget over all rounds"),
        _RANKED,
    ),
    "search.shortlist_holdout": _RANKED,
    "search.budget": _unless(lambda search: search.method == "random", "only search.method random has a budget"),
}
"""By path of a field: when nothing depends on it."""

ALWAYS_OF_SEARCH = frozenset(
    [
        "search",
        "search.operations",
        "search.cells",
        "search.nodes",
        "search.inputs_per_node",
        "search.channels",
        "search.stem",
        "search.embedding_size",
        "search.method",
        "search.edge_weights",
        "search.choose",
        "search.shortlist",
    ]
)
"""Fields that change every search, or whose uselessness is an error elsewhere."""
