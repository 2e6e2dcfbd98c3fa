"""Random exports: a thousand networks of random parts, by both exporters at every opset, through the whole converter.

    python -m rtool.benchmarks.robustness.random_exports                 1,000 files: an hour and a half on one core
    python -m rtool.benchmarks.robustness.random_exports --shard 0/4     every fourth of them, for four processes
    python -m rtool.benchmarks.robustness.random_exports --journal FILE  append every outcome, and go on where FILE ends
    python -m rtool.benchmarks.robustness.random_exports --only 17 42    these, with what was found printed in full

File number K of a seed is the same in every run. Each is converted and compared with ONNX Runtime (where they differ,
the network in float64 says whose error it is), its gradients held to the original's, trained two steps and written
back, and its batch made dynamic. What an exporter cannot write is counted and left out. Each runs in a process of its
own with a time and a memory limit. Results go to `results/`, dated; journals of several shards may be given together.
Exit code 1 when a file is refused, wrong, ends in a traceback, or loses a gradient or its training.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path

from ..machine import describe_machine
from ..places import RESULTS
from .isolation import Isolated
from .random_export_checks import Checked, check

__all__ = ["COUNT", "main", "table"]

COUNT = 1000
_SECONDS, _GIGABYTES = 180.0, 12.0
_AIM = 0.95
"""Share of fixed files of per-image networks that `--batch dynamic` shall open."""


def run(seed: int, indices: Iterable[int], journal: Path | None) -> list[Checked]:
    """Check each file that `journal` does not have yet; all that are known then."""
    outcomes = read_journal([journal] if journal is not None else [])
    done = {(outcome.seed, outcome.index) for outcome in outcomes}
    with Isolated(check, seconds=_SECONDS, gigabytes=_GIGABYTES) as isolated:
        for index in indices:
            if (seed, index) in done:
                continue
            outcome = isolated(seed, index)
            if not isinstance(outcome, Checked):  # it crashed or hung, and how
                text = " ".join(str(outcome[1]).split())[-300:]
                outcome = Checked(seed, index, "", None, "", status="traceback", detail=f"{outcome[0]}: {text}")
                outcome.faults.append(outcome.detail)
            outcomes.append(outcome)
            if journal is not None:
                with journal.open("a") as file:
                    file.write(json.dumps(asdict(outcome)) + "\n")
    return outcomes


def read_journal(journals: Iterable[Path]) -> list[Checked]:
    """All outcomes in these files, in order of seed and number."""
    names = {field.name for field in fields(Checked)}
    found = {}
    for journal in journals:
        for line in journal.read_text().splitlines() if journal.exists() else ():
            entry = {name: value for name, value in json.loads(line).items() if name in names}
            found[entry["seed"], entry["index"]] = Checked(**entry)
    return [found[key] for key in sorted(found)]


def table(outcomes: Sequence[Checked]) -> str:
    """Markdown: what became of the files, per exporter and opset; what was not opened, and every fault."""
    statuses = ("not exported", "agrees", "rounding", "refused", "wrong", "traceback")
    lines = [
        f"| exporter | files | {' | '.join(statuses)} | gradients | write-back | batch opened |",
        "|---" * (len(statuses) + 5) + "|",
    ]
    groups = [("all", list(outcomes))]
    names = sorted({o.exporter for o in outcomes}, key=lambda name: (name.split("-")[0], int(name.split("-")[-1] or 0)))
    groups += [(name, [o for o in outcomes if o.exporter == name]) for name in names]
    for name, group in groups:
        counts = Counter(outcome.status for outcome in group)
        cells = [str(counts[status]) for status in statuses]
        cells += [_share(group, "gradients"), _share(group, "written_back"), _opened(group)]
        lines.append(f"| {name or 'crashed'} | {len(group)} | {' | '.join(cells)} |")
    lines += [
        "",
        "- rounding: the module and ONNX Runtime differ by more than 1e-5, and the module in float64 is within 1e-5 of "
        "the network in float64.",
        f"- batch opened: of fixed files whose network treats each image for itself; the aim is {_AIM:.0%}.",
        "",
    ]
    unrunnable = [outcome for outcome in outcomes if outcome.runtime]
    if unrunnable:
        text = "they are compared with the network in float64, and their batch is left as it is"
        lines += [f"{len(unrunnable)} files ONNX Runtime cannot run: {text}.", ""]
    lines += _listing("not opened", [(o, o.opened) for o in outcomes if _is_fixed(o) and o.opened not in ("", "ok")])
    lines += _listing("fault", [(o, fault) for o in outcomes for fault in o.faults])
    return "\n".join(lines) + "\n"


def _is_fixed(outcome: Checked) -> bool:
    return outcome.batch is not None and not outcome.mixes


def _share(group: Sequence[Checked], name: str) -> str:
    looked = [getattr(outcome, name) for outcome in group if getattr(outcome, name)]
    return f"{sum(value == 'ok' for value in looked)} of {len(looked)}"


def _opened(group: Sequence[Checked]) -> str:
    return _share([outcome for outcome in group if _is_fixed(outcome)], "opened")


def _listing(title: str, entries: Sequence[tuple[Checked, str]]) -> list[str]:
    if not entries:
        return []
    rows = [f"| {title} | file | network | what |", "|---|---|---|---|"]
    for outcome, text in entries:
        batch = outcome.batch or "dynamic"
        cell = text.replace("|", "/")[:250]
        rows.append(
            f"| {outcome.seed}/{outcome.index} | {outcome.exporter}, batch {batch} | {outcome.network} | {cell} |"
        )
    return [*rows, ""]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.robustness.random_exports", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--count", type=int, default=COUNT, help="how many files")
    parser.add_argument("--first", type=int, default=0, help="the number of the first one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard", default="0/1", help="I/N: every Nth file, from the Ith on")
    parser.add_argument("--only", type=int, nargs="*", help="these numbers, printed in full; nothing is written")
    parser.add_argument("--journal", type=Path, help="a file to append outcomes to and to go on from")
    parser.add_argument("--join", type=Path, nargs="*", help="journals of shards to make one table of; nothing is run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the dated files go")
    options = parser.parse_args(arguments)
    if options.only:
        for outcome in run(options.seed, options.only, None):
            sys.stdout.write(json.dumps(asdict(outcome), indent=1) + "\n")
        return 0
    if options.join:
        outcomes = read_journal(options.join)
    else:
        shard, shards = map(int, options.shard.split("/"))
        indices = range(options.first + shard, options.first + options.count, shards)
        outcomes = run(options.seed, indices, options.journal)
    written = table(outcomes)
    sys.stdout.write(written)
    if options.join or options.shard == "0/1":
        sys.stdout.write(f"{_write(written, outcomes, options.results)}\n")
    return int(any(outcome.faults for outcome in outcomes))


def _write(text: str, outcomes: Sequence[Checked], folder: Path) -> Path:
    now = datetime.now(UTC)
    document = {
        "date": now.isoformat(timespec="seconds"),
        "command": f"python -m rtool.benchmarks.robustness.random_exports --count {len(outcomes)}",
        "machine": describe_machine(),
        "counts": dict(Counter(outcome.status for outcome in outcomes)),
        "aim of opened batches": _AIM,
        "files": [asdict(outcome) for outcome in outcomes],
    }
    path = folder / f"{now:%Y-%m-%d}-random-exports.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    path.with_suffix(".md").write_text(f"# Random exports, {now:%Y-%m-%d}\n\n{len(outcomes)} files.\n\n{text}")
    return path


if __name__ == "__main__":
    sys.exit(main())
