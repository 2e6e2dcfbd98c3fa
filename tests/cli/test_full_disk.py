"""A disk that is full in mid-write: one message, exit code 2, and nothing half-written.

The limit is the kernel's own (RLIMIT_FSIZE, in a process of its own): a write beyond it fails as on a full disk, after
the file has begun to grow. One process runs all the commands, each in its own folder, with its own limit.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import rtool

EXAMPLE = Path(rtool.__file__).parent / "examples" / "models" / "osnet_x0_25_synthetic.onnx"
LIMIT = 100_000
"""Bytes a file can have; the model has nine times as many."""

PROGRAM = """
import contextlib, io, json, os, resource, sys
from rtool.cli.main import run

hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for folder, limit, arguments in json.load(sys.stdin):
    os.chdir(folder)
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        code = run(arguments)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    print(json.dumps([code, errors.getvalue()]), flush=True)
"""

EXPORT = ["export", str(EXAMPLE), "-o", "out.onnx"]
CONVERT = ["onnx2torch", str(EXAMPLE), "-o", "out.rtool"]
DEPLOY = ["deploy", str(EXAMPLE), "--name", "m", "--repository", "models", "--device", "cpu"]
EMBED = ["embed", str(EXAMPLE), "synthetic-people:identities=10,images=10", "-o", "out.npz"]
CASES = {
    "embed": (LIMIT, EMBED),
    "export": (LIMIT, EXPORT),
    "onnx2torch": (LIMIT, CONVERT),
    "deploy": (LIMIT, DEPLOY),
    "export with room": (100 * LIMIT, EXPORT),
    "export over a file": (LIMIT, [*EXPORT, "--overwrite"]),
    "onnx2torch without room for the weights": (6 * LIMIT, CONVERT),
}


@dataclass(frozen=True)
class Ended:
    """How a command ended, and the folder that it ran in."""

    code: int
    message: str
    folder: Path

    @property
    def files(self) -> list[str]:
        """Everything but the locks by which publishers take turns."""
        paths = [path for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
        return sorted(str(path.relative_to(self.folder)) for path in paths)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    folders = {name: tmp_path_factory.mktemp("full") for name in CASES}
    (folders["export over a file"] / "out.onnx").write_bytes(b"before")
    cases = [(str(folders[name]), limit, arguments) for name, (limit, arguments) in CASES.items()]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(cases), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    results = map(json.loads, done.stdout.splitlines())
    return {name: Ended(code, message, folders[name]) for name, (code, message) in zip(CASES, results, strict=True)}


@pytest.mark.parametrize("command", ["embed", "export", "onnx2torch", "deploy"])
def test_nothing_half_written_is_left(ended, command):
    result = ended[command]
    assert result.code == 2, result.message
    assert "Traceback" not in result.message
    assert "File too large" in result.message
    assert len(result.message.strip().splitlines()) == 1, result.message
    assert result.files == []


def test_the_same_command_writes_where_there_is_room(ended):
    """So that the refusals above are about the disk."""
    result = ended["export with room"]
    assert result.code == 0, result.message
    assert result.files == ["out.onnx", "out.onnx.manifest.json"]


def test_what_was_there_before_stays(ended):
    result = ended["export over a file"]
    assert result.code == 2
    assert (result.folder / "out.onnx").read_bytes() == b"before"
    assert result.files == ["out.onnx"]


def test_weights_that_do_not_fit_leave_no_bundle(ended):
    """The graph fits, the weights that are written after it do not: safetensors has an error of its own."""
    result = ended["onnx2torch without room for the weights"]
    assert result.code == 2, result.message
    assert "Traceback" not in result.message
    assert "nothing was left behind" in result.message
    assert list(result.folder.iterdir()) == []
