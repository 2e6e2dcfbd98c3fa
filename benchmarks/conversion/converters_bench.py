"""rtool's conversion compared with other converters: `make bench-converters`.

    python -m rtool.benchmarks.conversion.converters_bench  everything; about half an hour on 2 cores
    python -m rtool.benchmarks.conversion.converters_bench nodes conversion                     some parts
    python -m rtool.benchmarks.conversion.converters_bench speed --networks iresnet18,vit_tiny
    python -m rtool.benchmarks.conversion.converters_bench models --models FOLDER  also every .onnx file under FOLDER

Parts: `nodes` and `models` (what converts correctly), `conversion` (time and memory with iresnet100), `abilities`
(trainable share, scripting, exporting, compiling) and `speed` (the result compared with the hand-written network). The
other converters, onnx2torch, onnx2pytorch and pnnx, are installed into `.peers/`, never beside rtool. Tables are
printed and, with all figures, written to dated files in `results/`; parts measured earlier on the same day stay in
them. Exit code 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..machine import describe_machine
from ..places import RESULTS
from . import converted_speed, converter_costs, converter_coverage
from .peers import peer_versions

__all__ = ["PARTS", "main", "render"]


@dataclass(frozen=True)
class Part:
    """The title of a part in the report, and how it is measured, printed and judged."""

    title: str
    measure: Callable[[argparse.Namespace], dict[str, Any]]
    table: Callable[[Any], str]
    missed: Callable[[Any], list[str]]


PARTS: Mapping[str, Part] = {
    "nodes": Part(
        "ONNX's node cases with plain tensors",
        lambda _: converter_coverage.nodes(),
        converter_coverage.table_of_coverage,
        converter_coverage.missed_coverage,
    ),
    "models": Part(
        "Models",
        lambda options: converter_coverage.models(options.models),
        converter_coverage.table_of_coverage,
        converter_coverage.missed_coverage,
    ),
    "conversion": Part(
        "Time and memory of a conversion",
        lambda _: converter_costs.conversion(),
        converter_costs.table_of_conversion,
        converter_costs.missed_conversion,
    ),
    "abilities": Part(
        "What the result supports",
        lambda _: converter_costs.abilities(),
        converter_costs.table_of_abilities,
        converter_costs.missed_abilities,
    ),
    "speed": Part(
        "Forward and training step, compared with the hand-written folded network",
        lambda options: converted_speed.speed(options.networks),
        converted_speed.table_of_speed,
        converted_speed.missed_speed,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the named parts, print the tables and write them to files; returns 1 when a bound is missed."""
    options = _options(arguments)
    path = options.results / f"{datetime.now(UTC):%Y-%m-%d}-converters.json"
    for name in options.parts or PARTS:
        measured = PARTS[name].measure(options)
        report = _merged(path, name, measured)
        _write(path, report)
        print(_section(name, measured), flush=True)  # noqa: T201
    missed = [words for name in options.parts or PARTS for words in PARTS[name].missed(report["parts"][name])]
    print("\n".join([*(f"MISSED {words}" for words in missed), str(path)]))  # noqa: T201
    return int(bool(missed))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.conversion.converters_bench",
        description=__doc__.split("\n")[0] if __doc__ else None,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--models", type=Path, nargs="+", default=[], help="folders of further .onnx files")
    parser.add_argument("--networks", default=",".join(converted_speed.NETWORKS), help="networks of the part speed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the dated files")
    options = parser.parse_args(arguments)
    options.networks = options.networks.split(",")
    for given, known in ((options.parts, PARTS), (options.networks, converted_speed.NETWORKS)):
        unknown = [name for name in given if name not in known]
        if unknown:
            parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    return options


def _merged(path: Path, name: str, measured: dict[str, Any]) -> dict[str, Any]:
    """The day's report with this part; networks measured earlier stay in their part."""
    report: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"parts": {}}
    if name == "speed":
        measured = {**report["parts"].get(name, {}), **measured}
    parts = {**report["parts"], name: measured}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "peers": peer_versions(),
        "missed": [words for part in PARTS if part in parts for words in PARTS[part].missed(parts[part])],
        "parts": {part: parts[part] for part in PARTS if part in parts},
    }


def _write(path: Path, report: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(render(report), encoding="utf-8")


def render(report: Mapping[str, Any]) -> str:
    """The whole report as Markdown."""
    machine = report["machine"]
    versions = {**machine["libraries"], **report["peers"]}
    names = ("torch", "onnx", "onnx2torch", "onnx2pytorch", "pnnx")
    lines = [
        f"# Converters, {report['date'][:10]}",
        f"{machine['processor']}, {machine['cores']} cores; "
        + ", ".join(f"{name} {versions[name]}" for name in names if name in versions),
        *(_section(name, measured) for name, measured in report["parts"].items()),
        "## Bounds missed\n\n" + ("\n".join(f"- {words}" for words in report["missed"]) or "None."),
    ]
    return "\n\n".join(line.rstrip("\n") for line in lines) + "\n"


def _section(name: str, measured: Any) -> str:
    return f"## {PARTS[name].title}\n\n{PARTS[name].table(measured)}"


if __name__ == "__main__":
    sys.exit(main())
