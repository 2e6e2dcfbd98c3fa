"""Damaged files: thousands of variants of real ones, which rtool must refuse or convert correctly.

    python -m rtool.benchmarks.robustness.damage --count 2000 --seed 0  about 20 minutes on one core
    python -m rtool.benchmarks.robustness.damage --models real.onnx     damage these files as well
    python -m rtool.benchmarks.robustness.damage --journal FILE         append outcomes; continue after those in FILE
    python -m rtool.benchmarks.robustness.damage --cli 100              run the commands on so many of them as well

Variant K of a seed is the same in every run. Each is opened in a process of its own with a limit of 30 s and of memory;
a variant that still converts is run and compared with ONNX Runtime (see `damage_checks`). Every outcome must be a
refusal (exit code 2 of the command) or the right numbers. Results go to dated files in `results/`. Exit code 1 on any
other outcome.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..machine import describe_machine
from ..places import RESULTS
from .damage_checks import Attempt, Judgement, attempt, convert, judge, largest_value
from .damaged_files import ModelFiles, Variant, damaged, real_files
from .isolation import HUNG, Isolated

__all__ = ["BAD", "Outcome", "main", "try_variant"]

_SECONDS, _GIGABYTES = 30.0, 8.0
_FLOAT32_MAX = 3.4028235e38

GOOD = {
    "refused": "refused with a message",
    "agrees": "converted; ONNX Runtime or the reference evaluator gives the same numbers",
    "rounding": "converted; differs no more than ONNX Runtime does for inputs changed by one unit in the last place",
    "overflow": "converted; intermediate values exceed the range of float32, where any two runtimes differ",
    "command refuses": "converted by `onnx_to_torch`, but no runtime loads or runs it: `rtool onnx2torch` refuses it",
    "unrunnable": "a bundle that loads; its module fails to run, and so do both runtimes",
}
BAD = {
    "wrong": "converted; other numbers",
    "unjudged": "converted; no runtime loads the file, so there is nothing to compare with",
    "traceback": "an exception that is not a refusal",
    "crashed": "the process died",
    "hung": "no answer within 30 s",
}


@dataclass(frozen=True)
class Outcome:
    """The outcome of one variant."""

    index: int
    model: str
    file: str
    kind: str
    structure: bool
    status: str
    detail: str
    error: float = 0.0
    cli: tuple[str, ...] = ()
    """The exit codes of the commands, if they were run, as `onnx2torch: 2`; anything but 0, 1 and 2 is a fault."""


class _Checks:
    """The processes that convert, compare and measure the largest value."""

    def __init__(self) -> None:
        self.attempt = Isolated(attempt, seconds=_SECONDS, gigabytes=_GIGABYTES)
        self.convert = Isolated(convert, seconds=_SECONDS, gigabytes=_GIGABYTES)
        self.judge = Isolated(judge, seconds=4 * _SECONDS, gigabytes=_GIGABYTES)
        self.largest = Isolated(largest_value, seconds=4 * _SECONDS, gigabytes=_GIGABYTES)

    def __enter__(self) -> _Checks:
        return self

    def __exit__(self, *_: object) -> None:
        for isolated in (self.attempt, self.convert, self.judge, self.largest):
            isolated.__exit__(None, None, None)


def try_variant(checks: _Checks, path: Path) -> tuple[str, str, float]:
    """Status, detail and error of the model at `path`."""
    tried = checks.attempt(str(path))
    if not isinstance(tried, Attempt):
        return _fault(tried)
    if tried.status in ("refused", "traceback"):
        return tried.status, tried.detail, 0.0
    if tried.status == "absurd":
        return _by_command(checks, path, "unjudged", tried.detail)
    judged = checks.judge(str(path), tried.inputs, tried.outputs)
    if not isinstance(judged, Judgement):
        return _by_command(checks, path, "unjudged", f"the judge {judged[0]}: {judged[1].strip().splitlines()[-1]}")
    if tried.status == "failed":
        status = "unrunnable" if judged.status == "unjudged" else "wrong"
        return _by_command(checks, path, status, f"{tried.detail}; {judged.detail}")
    if judged.status == "unjudged":
        return _by_command(checks, path, "unjudged", judged.detail)
    if judged.status != "differs":
        return judged.status, f"{judged.oracle}: {judged.detail}" if judged.detail else "", judged.error
    largest = checks.largest(str(path), tried.inputs)
    if isinstance(largest, float) and largest > _FLOAT32_MAX:
        return "overflow", f"values up to {largest:.3g}; {judged.detail}", judged.error
    return "wrong", f"{judged.oracle}: {judged.detail}; noise {judged.noise:.3g}; largest {largest}", judged.error


def _by_command(checks: _Checks, path: Path, otherwise: str, detail: str) -> tuple[str, str, float]:
    """A module that cannot be compared or run: correct only if the command, which runs it, refuses the file."""
    if path.suffix != ".onnx":
        return otherwise, detail, 0.0
    said = checks.convert(str(path))
    if not isinstance(said, str):
        return _fault(said)
    return ("command refuses", f"{said}; {detail}", 0.0) if said else (otherwise, detail, 0.0)


def _fault(outcome: tuple[str, str]) -> tuple[str, str, float]:
    kind, how = outcome
    return ("traceback" if "Traceback" in how else kind), how, 0.0


def _commands(path: Path, folder: Path) -> tuple[str, ...]:
    """The exit codes of the commands on one variant, with a note on a traceback."""
    lines = {"inspect": ["inspect", str(path)]}
    if path.suffix == ".onnx":
        lines["onnx2torch"] = ["onnx2torch", str(path), "-o", str(folder / "out.rtool")]
    found = []
    for name, line in lines.items():
        try:
            done = subprocess.run(
                [sys.executable, "-m", "rtool", *line],
                capture_output=True,
                text=True,
                timeout=2 * _SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            found.append(f"{name}: {HUNG}")
            continue
        trace = "Traceback" in done.stdout + done.stderr
        words = " ".join((done.stdout + done.stderr).split())
        note = f" {words[-300:]}" if trace or done.returncode not in (0, 2) else ""
        found.append(f"{name}: {'traceback' if trace else done.returncode}{note}")
    return tuple(found)


def _run(
    models: Sequence[ModelFiles], indices: Sequence[int], seed: int, cli: int, journal: Path | None
) -> list[Outcome]:
    outcomes = _read_journal(journal)
    done = {outcome.index for outcome in outcomes}
    step = max(1, len(indices) // cli) if cli else 0
    with _Checks() as checks:
        for index in indices:
            if index in done:
                continue
            variant = damaged(models, index, seed)
            with tempfile.TemporaryDirectory() as name:
                outcome = _one(checks, variant, Path(name), with_cli=bool(step) and _is_sampled(index, step))
            outcomes.append(outcome)
            if journal is not None:
                with journal.open("a") as file:
                    file.write(json.dumps(asdict(outcome)) + "\n")
    return outcomes


def _is_sampled(index: int, step: int) -> bool:
    """One of every `step` variants, at a different position each time, because models and kinds of damage alternate."""
    return index % step == (7 * (index // step)) % step


def _one(checks: _Checks, variant: Variant, folder: Path, *, with_cli: bool) -> Outcome:
    model = folder / "model.rtool"
    model.mkdir()
    path = variant.model.write(model)
    status, detail, error = try_variant(checks, path)
    detail = detail.replace(f"{model}/", "").replace(str(model), "the bundle")
    return Outcome(
        variant.index,
        variant.model.name,
        variant.file,
        variant.kind,
        variant.structure,
        status,
        detail,
        error,
        _commands(path, folder) if with_cli else (),
    )


def _read_journal(journal: Path | None) -> list[Outcome]:
    if journal is None or not journal.exists():
        return []
    lines = journal.read_text().splitlines()
    return [Outcome(**{**entry, "cli": tuple(entry["cli"])}) for entry in map(json.loads, lines)]


def _faults(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [o for o in outcomes if o.status in BAD or any(_is_fault(code) for code in o.cli)]


def _is_fault(command: str) -> bool:
    return command.split(": ", 1)[1][:1] not in "012" or command.split(": ", 1)[1][:3] == "101"


def _table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: outcomes by model and by kind of damage, their meaning, and every fault."""
    statuses = [status for status in (*GOOD, *BAD) if status in BAD or any(o.status == status for o in outcomes)]
    lines = [f"| damaged | variants | {' | '.join(statuses)} |", "|---" * (len(statuses) + 2) + "|"]
    groups = [("all", list(outcomes)), ("the graph's description", [o for o in outcomes if o.structure])]
    groups += [(name, [o for o in outcomes if o.model == name]) for name in dict.fromkeys(o.model for o in outcomes)]
    groups += [(f"by: {kind}", [o for o in outcomes if o.kind == kind]) for kind in sorted({o.kind for o in outcomes})]
    for name, group in groups:
        counts = Counter(outcome.status for outcome in group)
        lines.append(f"| {name} | {len(group)} | " + " | ".join(str(counts[status]) for status in statuses) + " |")
    lines += ["", *(f"- {status}: {(GOOD | BAD)[status]}" for status in statuses)]
    commands = Counter(
        ": ".join(c.split(": ", 1)).split(" ", 2)[0] + " " + c.split()[1] for o in outcomes for c in o.cli
    )
    if commands:
        lines += ["", "| command, exit code | times |", "|---|---|"]
        lines += [f"| {name} | {count} |" for name, count in sorted(commands.items())]
    faults = _faults(outcomes)
    if faults:
        lines += ["", "| fault | model | damage | detail |", "|---|---|---|---|"]
        lines += [
            f"| {o.index}: {o.status} | {o.model}, {o.file} | {o.kind} | {_last(o.detail)} {'; '.join(o.cli)} |"
            for o in faults
        ]
    return "\n".join(lines) + "\n"


def _last(text: str) -> str:
    return text.strip().splitlines()[-1][:200].replace("|", "/") if text.strip() else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.robustness.damage", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--count", type=int, default=2000, help="how many variants")
    parser.add_argument("--first", type=int, default=0, help="the number of the first one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="further .onnx files to damage")
    parser.add_argument("--cli", type=int, default=0, help="number of variants on which the commands run as well")
    parser.add_argument(
        "--journal", type=Path, help="file to which outcomes are appended, and after which a run continues"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the dated files")
    options = parser.parse_args(arguments)
    models = real_files(options.models)
    indices = range(options.first, options.first + options.count)
    outcomes = _run(models, indices, options.seed, options.cli, options.journal)
    table = _table(outcomes)
    sys.stdout.write(table)
    if options.journal is None or len(outcomes) >= options.count:
        sys.stdout.write(f"{_write(table, outcomes, options.seed, options.results)}\n")
    return int(bool(_faults(outcomes)))


def _write(table: str, outcomes: Sequence[Outcome], seed: int, folder: Path) -> Path:
    now = datetime.now(UTC)
    document = {
        "date": now.isoformat(timespec="seconds"),
        "command": f"python -m rtool.benchmarks.robustness.damage --count {len(outcomes)} --seed {seed}",
        "machine": describe_machine(),
        "counts": dict(Counter(outcome.status for outcome in outcomes)),
        "not refused and not equal": [asdict(o) for o in outcomes if o.status not in ("refused", "agrees") or o.cli],
    }
    path = folder / f"{now:%Y-%m-%d}-damage.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    path.with_suffix(".md").write_text(f"# Damaged files, {now:%Y-%m-%d}\n\n{len(outcomes)} variants.\n\n{table}")
    return path


if __name__ == "__main__":
    sys.exit(main())
