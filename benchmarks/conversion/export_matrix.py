"""The export matrix: networks x exporters x batch x fused or not, each converted and compared with the original.

    python -m rtool.benchmarks.conversion.export_matrix  everything: about 45 minutes
    python -m rtool.benchmarks.conversion.export_matrix --network iresnet100 --exporter dynamo-20  a part of it
    python -m rtool.benchmarks.conversion.export_matrix --missing --minutes 5  what today's file lacks, for 5 minutes

Rows are merged into the dated files in `results/`, so that the matrix can be measured in several calls. The networks
have their native sizes and random weights. Each cell compares (see `matrix_cells`):

- the outputs with ONNX Runtime's, at the fixed batch of the file, or at 1, 2, 3 and 16 where it is dynamic;
- for unfused files, the gradient of every parameter with the original's, on 1 or 2 images (on 16 only where the
  converted module supports no other batch);
- for unfused files with a dynamic batch, from TorchScript at opset 17 and dynamo at 20, also outputs, BatchNorm
  statistics and gradients of a step in training mode, on 4 images.

One module from each of these two exporters is then traced, scripted, exported, compiled, copied, wrapped in DDP, cast
to bfloat16 and converted to channels_last (see `module_uses`). Exit code 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ...converters.lowering.conversion import onnx_to_torch
from ..machine import describe_machine
from ..places import RESULTS
from .matrix_cells import (
    EXPORTERS,
    GRADIENT_BOUND,
    OUTPUT_BOUND,
    Cell,
    Difference,
    Row,
    Subject,
    measure_cell,
    random_subject,
)
from .module_uses import USE_BOUNDS, USES, try_uses

__all__ = ["BATCHES", "NETWORKS", "main", "measure", "table"]

NETWORKS = (
    "iresnet18",
    "iresnet50",
    "iresnet100",
    "mobilefacenet",
    "osnet_x0_25",
    "osnet_x1_0",
    "resnet50",
    "resnet50_ibn_a",
    "vit_tiny",
)
BATCHES = (1, 16, 0)
"""0 stands for a dynamic batch."""
_USED = {"torchscript-17": True, "dynamo-20": False}
"""One opset per exporter -> whether the module that is put to all uses comes from the fused file."""
_CELLS = len(NETWORKS) * len(EXPORTERS) * len(BATCHES) * 2

Report = dict[str, Any]


def measure(subject: Subject, exporters: Iterable[str], report: Callable[[str], None] = lambda _: None) -> Report:
    """All cells of a network, and the uses of one module per exporter, as JSON data; `report` gets a line per cell."""
    network = subject.network
    rows: list[dict[str, Any]] = []
    uses: list[dict[str, Any]] = []
    for exporter in exporters:
        for batch in BATCHES:
            for fused in (True, False):
                row, model = measure_cell(
                    subject, Cell(network, exporter, batch, fused), training=batch == 0 and exporter in _USED
                )
                rows.append({**asdict(row), "misses": row.misses})
                report(_line(row))
                if batch == 0 and fused == _USED.get(exporter) and not row.problem:
                    found = try_uses(onnx_to_torch(model), subject.images)
                    uses.append({"network": network, "exporter": exporter, "fused": fused, "uses": found})
                    report(f"    uses {found}")
                del model
                gc.collect()  # the IR has many reference cycles
    return {"rows": rows, "uses": uses}


def _line(row: Row) -> str:
    worst = max(row.errors.values(), default=float("nan"))
    name = (
        f"{row.network:14} {row.exporter:14} batch {row.batch or 'dynamic':>7} {'fused' if row.fused else 'unfused':7}"
    )
    gradients = f"  gradients {row.gradients.relative:.1e} {row.gradients.dtype}" if row.gradients else ""
    gradients += "".join(f"  {kind} {d.relative:.1e} {d.dtype}" for kind, d in row.training.items())
    other = f"  other batch {row.other_batch_error}" if row.batch else ""
    return f"{name}  error {worst:.1e}{other}{gradients}  {row.seconds} s  {'; '.join(row.misses) or 'holds'}"


def merged(old: Report, new: Report) -> Report:
    """`old` with the rows of `new` in place of those of the same cells, in the order of the matrix."""

    def place(entry: dict[str, Any]) -> tuple[int, ...]:
        batch = BATCHES.index(entry["batch"]) if "batch" in entry else 0
        return NETWORKS.index(entry["network"]), list(EXPORTERS).index(entry["exporter"]), batch, int(entry["fused"])

    found = {}
    for kind in ("rows", "uses"):
        by_place = {place(entry): entry for entry in (*old.get(kind, ()), *new[kind])}
        found[kind] = [by_place[key] for key in sorted(by_place)]
    return found


def missed(report: Report) -> list[str]:
    """Every missed bound, with its cell."""
    lines = [f"{_cell_name(row)}: {miss}" for row in report["rows"] for miss in row["misses"]]
    for entry in report["uses"]:
        for name, value in entry["uses"].items():
            if _use_fails(entry["network"], name, value):
                lines.append(f"{_cell_name(entry)}: {name}: {value}")
    return lines


def _use_fails(network: str, name: str, value: float | str) -> bool:
    if name == "jit.script" and network.startswith("vit"):
        return False  # required of the convolutional networks only
    return isinstance(value, str) or not value <= USE_BOUNDS[name]


def _cell_name(entry: dict[str, Any]) -> str:
    batch = f", batch {entry['batch'] or 'dynamic'}" if "batch" in entry else ""
    return f"{entry['network']}, {entry['exporter']}{batch}, {'fused' if entry['fused'] else 'unfused'}"


def table(report: Report) -> str:
    """Markdown: the cells, one row per network; then the uses; then the missed bounds."""
    holding = sum(not row["misses"] for row in report["rows"])
    lines = [
        f"{len(report['rows'])} of {_CELLS} cells measured, {holding} hold: outputs within {OUTPUT_BOUND:g} of "
        f"ONNX Runtime's, gradients of unfused files within {GRADIENT_BOUND:g} of the original's. "
        "Figures are the worst per network.",
        "",
        "| network | cells | hold | error | fixed to dynamic batch | gradients | of them float64 | training: outputs |"
        " statistics | gradients | of them float64 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for network in dict.fromkeys(row["network"] for row in report["rows"]):
        lines.append(_network_row(network, [row for row in report["rows"] if row["network"] == network]))
    lines += ["", f"| uses, worst of the exporters | {' | '.join(USES)} |", f"|---|{'---|' * len(USES)}"]
    for network in dict.fromkeys(entry["network"] for entry in report["uses"]):
        lines.append(_use_row(network, [entry["uses"] for entry in report["uses"] if entry["network"] == network]))
    misses = missed(report)
    return "\n".join([*lines, "", *(f"- missed: {miss}" for miss in misses), *([""] if misses else [])])


def _network_row(network: str, rows: Sequence[dict[str, Any]]) -> str:
    fixed = [row for row in rows if row["batch"]]
    dynamic = sum(row["other_batch_error"] is not None and row["other_batch_error"] <= OUTPUT_BOUND for row in fixed)
    steps = [row["training"] for row in rows if row["training"]]
    columns = [
        network,
        len(rows),
        sum(not row["misses"] for row in rows),
        f"{max((error for row in rows for error in row['errors'].values()), default=float('nan')):.1e}",
        f"{dynamic} of {len(fixed)}",
        *_worst([row["gradients"] for row in rows if row["gradients"]]),
        _worst([step["outputs"] for step in steps])[0],
        _worst([step["statistics"] for step in steps])[0],
        *_worst([step["gradients"] for step in steps]),
    ]
    return f"| {' | '.join(map(str, columns))} |"


def _worst(found: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """The largest difference, and how many were measured in float64."""
    differences = [Difference(**entry) for entry in found]
    if not differences:
        return "-", "-"
    wide = sum(difference.dtype == "float64" for difference in differences)
    return f"{max(d.relative for d in differences):.1e}", f"{wide} of {len(differences)}"


def _use_row(network: str, entries: Sequence[dict[str, Any]]) -> str:
    cells = []
    for name in USES:
        values = [entry[name] for entry in entries]
        failed = [value for value in values if isinstance(value, str)]
        cells.append(f"{len(failed)} fail" if failed else f"{max(values):.0e}")
    return f"| {network} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print one line per cell, merge into the results; returns 1 when a bound is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.conversion.export_matrix", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--network", action="append", choices=NETWORKS, help="repeatable; default: all nine")
    parser.add_argument("--exporter", action="append", choices=list(EXPORTERS), help="repeatable; default: all five")
    parser.add_argument("--missing", action="store_true", help="measure only what today's file lacks")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no new cell after so many minutes")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the dated files")
    options = parser.parse_args(arguments)
    path = options.results / f"{datetime.now(UTC):%Y-%m-%d}-export-matrix.json"
    end = time.monotonic() + 60 * options.minutes
    for network in options.network or NETWORKS:
        held = {row["exporter"] for row in _read(path)["rows"] if row["network"] == network}
        wanted = [name for name in options.exporter or EXPORTERS if not (options.missing and name in held)]
        subject = random_subject(network) if wanted else None
        for exporter in wanted:
            if subject is None or time.monotonic() > end:
                break
            report = measure(subject, [exporter], lambda line: print(line, flush=True))  # noqa: T201
            _write(path, merged(_read(path), report))
    misses = missed(_read(path))
    print("\n".join([*(f"MISSED {entry}" for entry in misses), str(path)]))  # noqa: T201
    return 1 if misses else 0


def _read(path: Path) -> Report:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": [], "uses": []}


def _write(path: Path, report: Report) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    head = {
        "date": now,
        "command": "python -m rtool.benchmarks.conversion.export_matrix",
        "machine": describe_machine(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**head, "missed": missed(report), **report}, indent=1) + "\n", encoding="utf-8")
    heading = f"# Export matrix, {now[:10]}\n\ntorch {torch.__version__}; all figures are relative errors\n\n"
    path.with_suffix(".md").write_text(heading + table(report) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
