"""What becomes of one ONNX file at the command line: inspected, converted, exported back, its batch made dynamic.

Each command runs in a process of its own, with a time and a memory limit. An exit code other than 0 and 2, or a limit
that was passed, is a fault: 1 is a number outside its bound, and anything else a crash.
"""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Command", "FileResult", "try_file"]

_SECONDS = 600
_GIGABYTES = 16
BOUND = 1e-5
"""Relative to the largest output: the bound that the commands themselves hold a conversion to."""


@dataclass(frozen=True)
class Command:
    """How one command ended: its exit code (-1: too late), what it refused or reported, and the error measured.

    `error` is relative to the largest output; NaN where nothing was measured.
    """

    exit: int
    detail: str = ""
    error: float = float("nan")
    oracle: str = ""


@dataclass
class FileResult:
    """The results of every command on one file; a step that was not due is absent."""

    package: str
    file: str
    sha256: str
    bytes: int
    opset: int = 0
    batch: str = ""
    steps: dict[str, Command] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def faults(self) -> list[str]:
        """What is wrong with rtool, if anything."""
        return [
            f"{name}: exit {step.exit}: {step.detail}" for name, step in self.steps.items() if step.exit not in (0, 2)
        ]


def try_file(package: str, path: Path, name: str) -> FileResult:
    """Every step of one file; what follows a refused conversion is left out."""
    content = path.read_bytes()
    result = FileResult(package, name, hashlib.sha256(content).hexdigest(), len(content))
    with tempfile.TemporaryDirectory() as place:
        bundle, back, opened = (str(Path(place) / each) for each in ("model.rtool", "back.onnx", "dynamic.onnx"))
        result.steps["inspect"], facts = _run("inspect", str(path))
        result.opset = int((facts.get("opsets") or {}).get("", 0))
        result.batch = str(facts.get("batch"))
        converted, said = _run("onnx2torch", str(path), "--output", bundle)
        result.steps["convert"] = _measured(converted, list(said.get("parity") or []))
        if converted.exit == 0:
            exported, said = _run("export", bundle, "--output", back)
            result.steps["export back"] = exported
            if exported.exit == 0:
                compared, said = _run("bench", "parity", str(path), back)
                result.steps["same as the file"] = _measured(compared, [said] if said else [])
        if isinstance(facts.get("batch"), int):
            result.steps["batch dynamic"], _ = _run("export", str(path), "--batch", "dynamic", "--output", opened)
    return result


def _measured(command: Command, entries: list[dict[str, Any]]) -> Command:
    """With the largest of the errors that a command reports, and what it compared with."""
    errors = [entry["parity"]["max_rel"] for entry in entries if entry.get("parity")]
    oracles = {str(entry.get("oracle") or "ONNX Runtime") for entry in entries}
    reasons = {str(entry.get("reason") or "") for entry in entries} - {""}
    return Command(
        command.exit,
        command.detail or "; ".join(sorted(reasons)),
        max(errors) if errors else float("nan"),
        ", ".join(sorted(oracles)),
    )


def _run(*words: str) -> tuple[Command, dict[str, Any]]:
    """A command of rtool, and the JSON that it printed."""
    command = [sys.executable, "-m", "rtool", *words, "--json"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_SECONDS, preexec_fn=_limit_memory
        )
    except subprocess.TimeoutExpired:
        return Command(-1, f"no answer after {_SECONDS} s"), {}
    try:
        said = json.loads(done.stdout)
    except ValueError:
        said = {}
    message = " ".join(done.stderr.split()).removeprefix("Error: ")
    return Command(done.returncode, message[-1500:] if done.returncode else ""), said if isinstance(said, dict) else {}


def _limit_memory() -> None:
    limit = _GIGABYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
