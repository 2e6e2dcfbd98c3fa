"""No input file runs code: every row of SECURITY.md's table is run with hostile files, in a watched process."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import rtool

ROOT = Path(rtool.__file__).resolve().parent
WATCH = Path(__file__).parent / "security/watch.py"


def watch(folder, *options, prefix=()):
    folder.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(folder),
    }  # fmt: skip
    command = [*prefix, sys.executable, str(WATCH), str(folder), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("security") / "hostile"


@pytest.fixture(scope="module")
def report(folder):
    return watch(folder)


def table():
    """Input kind -> loader, from SECURITY.md."""
    lines = (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    header, *rows = rows
    assert header == ["input kind", "loader", "what is refused", "what is trusted"]
    assert all(len(row) == 4 and all(row) for row in rows)
    return {kind: loader.strip("`") for kind, loader, *_ in rows}


def test_every_row_names_a_loader_that_exists():
    for kind, loader in table().items():
        file, _, function = loader.partition(":")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, kind


def test_every_row_is_run_and_everything_run_has_a_row(report):
    found = defaultdict(list)
    for case in report:
        found[case["kind"]].append(case)
    assert set(found) == set(table())
    assert all(any(case["name"] != "honest" for case in cases) for cases in found.values())
    assert sum(case["name"] != "honest" for case in report) >= 40


def test_hostile_files_are_refused_and_honest_ones_open(report):
    wrong = [case for case in report if case["outcome"] != ("refused" if case["refused"] else "opened")]
    assert not wrong
    assert all(case["message"] for case in report if case["refused"])


def test_the_commands_end_with_exit_code_2_and_a_message(report):
    commands = [case for case in report if case["code"] is not None]
    assert len(commands) >= 12
    assert [case for case in commands if case["code"] != (2 if case["refused"] else 0)] == []
    assert all("Error" in case["text"] and "Traceback" not in case["text"] for case in commands if case["refused"])


def test_nothing_runs_while_a_file_is_opened(report, folder):
    assert [case for case in report if case["seen"] or case["marker"]] == []
    assert not (folder / "MARKER").exists()


def test_the_payloads_are_live_and_the_watch_sees_them(report, folder):
    canaries = json.loads((folder / "canaries.json").read_text(encoding="utf-8"))
    assert len(canaries) == 7
    assert [canary for canary in canaries if not canary["seen"] and not canary["marker"]] == []
    assert sum(canary["marker"] for canary in canaries) >= 5


def test_importing_the_package_asks_onnx_runtime_to_send_nothing():
    assert os.environ["ORT_DISABLE_TELEMETRY"]


def system_calls(trace, folder):
    """The calls outside `folder` that start a program, connect, or make a file, without their numbers and results.

    Left out: the start of the watched program itself, and the name service's local socket, which any lookup of a user's
    name tries.
    """
    found = set()
    for line in trace.read_text(encoding="utf-8", errors="replace").splitlines()[1:]:
        call = re.search(r"\b(execve|connect|openat|open|creat)\((.*)", line)
        if call is None or str(folder) in line or "/nscd/socket" in line:
            continue
        name, rest = call.groups()
        if name in ("execve", "connect", "creat") or "O_CREAT" in rest:
            found.add(re.sub(r"\d+", "N", f"{name}({re.sub(r'(<unfinished|[)] +=).*', '', rest)}"))
    return found


@pytest.mark.slow
def test_the_system_calls_are_those_of_honest_files(tmp_path):
    assert shutil.which("strace"), "this test needs strace: install the package of that name"
    calls: dict[str, set[str]] = {}
    for name, options in (("honest", ["--honest"]), ("all", ["--no-canaries"])):
        trace = tmp_path / f"{name}.trace"
        prefix = ["strace", "-f", "-qq", "-o", str(trace), "-e", "trace=execve,connect,open,openat,creat"]
        watch(tmp_path / name, *options, prefix=prefix)
        calls[name] = {call.replace(f"/{name}", "") for call in system_calls(trace, tmp_path)}
    assert calls["all"] - calls["honest"] == set()
