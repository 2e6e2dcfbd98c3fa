"""Seconds that the commands which load no torch take, in a process of their own.

Processor time of the user is measured, since the machine may be shared, and wall time beside it; the least of all runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from .machine import describe_machine
from .places import DEMO_MODEL, RESULTS

__all__ = ["COMMANDS", "Timed", "main", "measure"]

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("--version",),
    ("--help",),
    ("no-such-command",),
    ("inspect", str(DEMO_MODEL)),
    ("inspect", "osnet_x1_0"),
    ("inspect", "no_such_model.onnx"),
    ("ops",),
    ("config", "show"),
    ("doctor",),
    ("finetune", "no_such.yaml", "--dry-run"),
)
_ROUNDS = 7


@dataclass(frozen=True)
class Timed:
    """One command: the least of all rounds, in seconds."""

    command: str
    user: float
    wall: float


def measure(command: Sequence[str], rounds: int) -> Timed:
    """Run `rtool` with these arguments, once to warm the caches and then `rounds` times, its output thrown away."""
    arguments = [sys.executable, "-m", "rtool", *command]
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        with open(os.devnull, "w") as nowhere:
            actions = [(os.POSIX_SPAWN_DUP2, nowhere.fileno(), stream) for stream in (1, 2)]
            child = os.posix_spawn(sys.executable, arguments, dict(os.environ), file_actions=actions)
        _, _, usage = os.wait4(child, 0)
        times.append((usage.ru_utime, time.perf_counter() - start))
    user, wall = (min(entry[index] for entry in times[1:]) for index in (0, 1))
    shown = " ".join(Path(word).name if "/" in word else word for word in command)
    return Timed(f"rtool {shown}", round(user, 3), round(wall, 3))


def _made(folder: Path) -> tuple[Path, Path]:
    """The demo's model as a bundle and as an exported program."""
    from ..converters.bundles.onnx_to_bundle import onnx2torch
    from ..converters.exporting.pipeline import export

    bundle = onnx2torch(DEMO_MODEL, folder / "bundle.rtool").output
    return bundle, export(bundle, folder / "program.pt2", format="pt2").path


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every command, and write the dated table."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.startup", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the dated file goes")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        made = [("inspect", str(path)) for path in _made(Path(folder))]
        rows = [measure(command, options.rounds) for command in (*COMMANDS, *made)]
    lines = [
        "| command | user seconds | wall seconds |",
        "|---|---|---|",
        *(f"| `{row.command}` | {row.user:.2f} | {row.wall:.2f} |" for row in rows),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    now = datetime.now(UTC)
    path = options.results / f"{now:%Y-%m-%d}-startup.json"
    document = {
        "date": now.isoformat(timespec="seconds"),
        "rounds": options.rounds,
        "machine": describe_machine(),
        "commands": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
