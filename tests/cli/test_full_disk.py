"""A disk that is full in mid-write: one message, exit code 2, and nothing half-written.

The limit is the kernel's own (RLIMIT_FSIZE, in a process of its own): a write beyond it fails as on a full disk, after
the file has begun to grow.
"""

import subprocess
import sys
from pathlib import Path

import pytest

import rtool

EXAMPLE = Path(rtool.__file__).parent / "examples" / "models" / "osnet_x0_25_synthetic.onnx"
LIMIT = 100_000
"""Bytes a file can have; the model has nine times as many."""

PROGRAM = """
import resource, sys
from rtool.cli.main import run
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(run(sys.argv[2:]))
"""

COMMANDS = {
    "export": ["export", str(EXAMPLE), "-o", "out.onnx"],
    "onnx2torch": ["onnx2torch", str(EXAMPLE), "-o", "out.rtool"],
    "deploy": ["deploy", str(EXAMPLE), "--name", "m", "--repository", "models", "--device", "cpu"],
}


def run_limited(arguments: list[str], folder: Path, limit: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(limit), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def files(folder: Path) -> list[str]:
    """Everything but the lock that publishers of a repository take turns by."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != ".lock")


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_half_written_is_left(command, tmp_path):
    done = run_limited(COMMANDS[command], tmp_path, LIMIT)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert [name for name in files(tmp_path) if "rtool" not in name or "lock" not in name] == []


def test_the_same_command_writes_where_there_is_room(tmp_path):
    """So that the refusals above are about the disk."""
    done = run_limited(COMMANDS["export"], tmp_path, 100 * LIMIT)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == ["out.onnx", "out.onnx.manifest.json"]


def test_what_was_there_before_stays(tmp_path):
    (tmp_path / "out.onnx").write_bytes(b"before")
    done = run_limited([*COMMANDS["export"], "--overwrite"], tmp_path, LIMIT)
    assert done.returncode == 2
    assert (tmp_path / "out.onnx").read_bytes() == b"before"
    assert files(tmp_path) == ["out.onnx"]


def test_weights_that_do_not_fit_leave_no_bundle(tmp_path):
    """The graph fits, the weights that are written after it do not: safetensors has an error of its own."""
    done = run_limited(COMMANDS["onnx2torch"], tmp_path, 6 * LIMIT)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "nothing was left behind" in done.stderr
    assert list(tmp_path.iterdir()) == []
