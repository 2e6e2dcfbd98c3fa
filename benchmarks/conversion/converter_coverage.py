"""How many conformance cases and real models each converter gets right: parts `nodes` and `models`.

Every converter gets the same cases, in a process of its own, and the same comparison judges its outputs
(`onnx_conformance.compare_outputs`: number, shape, element type, values). A case is refused when the tool itself says
that it does not support it (NotImplementedError, or an error of rtool's own), and crashed when anything else stops it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..operators.onnx_cases import Case, cases_on_disk, folder_cases, node_cases, with_initializers
from .onnx_conformance import Status
from .peers import Worker, judge, make_environment, peer_models

__all__ = ["missed_coverage", "models", "nodes", "run_cases", "table_of_coverage"]

_TOOLS = ("rtool", "onnx2torch", "onnx2pytorch")
_STATUSES: tuple[Status, ...] = ("passed", "refused", "wrong", "crashed")
_AT_LEAST = {"node cases, NumPy's element types": 1560, "pytorch-converted": 82, "pytorch-operator": 35, "light": 9}
"""Suite -> the number of cases that rtool must pass."""

Suites = dict[str, dict[str, Any]]


def nodes() -> Suites:
    """Every node case of the installed onnx, unchanged and with its weights as initializers."""
    cases = list(node_cases())
    native = {case.name for case in cases if case.is_native}
    standard = {case.name for case in cases if _is_standard(case)}
    subsets = {"node cases, NumPy's element types": native, "the same in ONNX's own domain": native & standard}
    plain = _measured("node cases, all element types", cases, _TOOLS, subsets)
    changed = [case for case in map(with_initializers, cases) if case is not None]
    weights = "weights as initializers, all element types"
    subsets = {"weights as initializers, NumPy's element types": native}
    return {**plain, **_measured(weights, changed, _TOOLS, subsets)}


def models(folders: Sequence[Path] = ()) -> Suites:
    """The models that the packages onnx and rapidocr contain, and every `.onnx` file in `folders`."""
    make_environment()
    suites: Suites = {}
    for kind in ("pytorch-converted", "pytorch-operator"):
        suites |= _measured(kind, list(cases_on_disk(kind)), _TOOLS)
    real = {"light": list(cases_on_disk("light")), "rapidocr": list(folder_cases(peer_models()))}
    given = [case for folder in folders for case in folder_cases(folder)]
    for name, cases in {**real, **({"files given": given} if given else {})}.items():
        suites |= _measured(name, cases, (*_TOOLS, "pnnx"))
    return suites


def _is_standard(case: Case) -> bool:
    return all(node.domain in ("", "ai.onnx") for node in case.model.graph.node)


def _measured(
    suite: str, cases: Sequence[Case], tools: Sequence[str], subsets: Mapping[str, Collection[str]] | None = None
) -> Suites:
    """Counts per subset (name -> cases) and for the whole suite."""
    groups = {**(subsets or {}), suite: [case.name for case in cases]}
    result: Suites = {name: {"cases": 0, "tools": {}} for name in groups}
    for tool in tools:
        with Worker(tool) as worker:
            outcomes = list(run_cases(worker, cases))
        for name, members in groups.items():
            chosen = [outcome for outcome in outcomes if outcome[0] in members]
            result[name]["cases"] = len(chosen)
            result[name]["tools"][tool] = _counts(chosen)
        result[suite]["tools"][tool]["not passed"] = {
            name: f"{status}: {detail}".splitlines()[0][:160]
            for name, status, detail in outcomes
            if status in ("wrong", "crashed") or (tool == "rtool" and status != "passed")
        }
    return result


def _counts(outcomes: Iterable[tuple[str, Status, str]]) -> dict[str, Any]:
    counts = Counter(status for _, status, _ in outcomes)
    return {status: counts[status] for status in _STATUSES}


def run_cases(worker: Worker, cases: Iterable[Case]) -> Iterator[tuple[str, Status, str]]:
    """(case, status, why it did not pass), in order."""
    for case in cases:
        try:
            reply, outputs = worker.run(case)
        except TypeError as error:  # such a tensor cannot be passed to any converter to torch
            yield case.name, "refused", str(error)
            continue
        yield (case.name, *judge(case, reply, outputs))


def table_of_coverage(suites: Suites) -> str:
    """Markdown: one row per suite, one column per converter."""
    tools = list(dict.fromkeys(tool for suite in suites.values() for tool in suite["tools"]))
    lines = ["Passed / refused / wrong / crashed:", "", f"| suite | cases | {' | '.join(tools)} |"]
    lines.append("|---" * (len(tools) + 2) + "|")
    for name, suite in suites.items():
        cells = [_cell(suite["tools"][tool]) if tool in suite["tools"] else "not run" for tool in tools]
        lines.append(f"| {name} | {suite['cases']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, Any]) -> str:
    return " / ".join(str(row[status]) for status in _STATUSES)


def missed_coverage(suites: Suites) -> list[str]:
    """Suites in which rtool passes too few cases, or any case is wrong or crashes."""
    missed = []
    for name, suite in suites.items():
        row = suite["tools"]["rtool"]
        wanted = suite["cases"] if name == "rapidocr" else _AT_LEAST.get(name, 0)
        if row["passed"] < wanted:
            missed.append(f"{name}: {row['passed']} passed, wanted {wanted}")
        if row["wrong"] or row["crashed"]:
            missed.append(f"{name}: {row['wrong']} wrong and {row['crashed']} crashed, wanted none")
    return missed
