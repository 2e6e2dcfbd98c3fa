"""`rtool serve --detach`, `--status`, `--logs`, `--stop`: one server through its whole life, killed once on the way."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from rtool.cli import main
from rtool.converters.runtime.calling.access_key import process_started
from rtool.serving import TritonClient, deploy
from rtool.serving.service import records
from rtool.serving.service.overview import service_states


@pytest.fixture
def own_services(tmp_path, monkeypatch):
    """A folder of records of this test alone."""
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "run/rtool/services"


def run(capsys, *command: str) -> tuple[int, dict]:
    code = main.run(["serve", *command, "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else {"error": said.err}


def descendants(pid: int) -> list[int]:
    found = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, tasks.read_text().split()):
            found += [child, *descendants(child)]
    return found


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_detached_server_is_known_killed_started_again_and_stopped(
    own_services, tmp_path, onnx_files, capsys, monkeypatch
):
    root = tmp_path / "my models"
    deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    free = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    for name in ("rtool", "json", "hashlib", "numpy"):  # neither the command nor Triton's stubs take modules from here
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module of somebody else')")
    monkeypatch.chdir(tmp_path)
    code, started = run(capsys, str(root), "--detach", *free)
    assert code == 0, started
    assert started["id"] == f"my-models-{started['http_url'].split(':')[1]}"
    assert (started["kind"], started["models"], Path(started["log"]).parent) == ("embedded", ["m"], own_services)
    with TritonClient(started["url"], "m") as client:
        assert client.run(np.ones((16, 3, 8, 4), np.float32))[0].shape == (16, 8)

    for asked in (started["id"], str(root)):
        code, said = run(capsys, "--status", asked)
        assert (code, [one["state"] for one in said["services"]]) == (0, ["ready"])
    code, said = run(capsys, "--logs")
    assert code == 0, started
    assert any("Started GRPCInferenceService" in line for line in said["lines"])
    ports = ("--http-port", started["http_url"].split(":")[1], "--grpc-port", "0", "--metrics-port", "0")
    assert main.run(["serve", str(root), "--detach", *ports]) == 2
    assert "the port is in use" in capsys.readouterr().err

    family = descendants(started["pid"])
    assert len(family) >= 2  # Triton and the stub of its model
    os.kill(started["pid"], signal.SIGKILL)
    os.waitpid(started["pid"], 0)
    wait_for(lambda: not any(map(runs, family)))
    code, said = run(capsys, "--status")
    assert (code, [one["state"] for one in said["services"]]) == (1, ["ended"])
    assert run(capsys, "--logs")[0] == 0  # what it said last is still there
    code, again = run(capsys, str(root), "--detach", *ports)
    assert code == 0, started
    assert not Path(started["log"]).exists()
    code, stopped = run(capsys, "--stop", str(root))
    assert (code, stopped["service"]["pid"], stopped["killed"]) == (0, again["pid"], False)
    assert not runs(again["pid"])
    assert list(own_services.iterdir()) == []
    assert run(capsys, "--status") == (1, {"services": []})


@pytest.mark.parametrize("what", ["--stop", "--logs"])
def test_without_a_server_the_command_says_so(own_services, capsys, what):
    assert main.run(["serve", what, "elsewhere"]) == 2
    assert "no server of elsewhere" in capsys.readouterr().err


def test_a_start_that_fails_says_why_and_leaves_nothing(own_services, tmp_path, capsys):
    assert main.run(["serve", str(tmp_path / "nothing"), "--detach"]) == 2
    assert "expected a model repository (a folder), got nothing" in capsys.readouterr().err
    assert list(own_services.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--status", "--stop"], "are different commands"),
        (["--check", "--log", "x"], "--log would have no effect with --check"),
        (["--target", "24.10"], "it belongs to --check"),
        (["--detach", "--dry-run"], "are different commands"),
        (["--detach", "--log", "x"], "leave --log out"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(own_services, capsys, options, said):
    assert main.run(["serve", *options]) == 2
    assert said in capsys.readouterr().err


def test_which_of_several_servers_must_be_named_and_a_record_of_others_is_not_read(own_services, tmp_path):
    ours = {"repository": str(tmp_path), "pid": os.getpid(), "started": 1, "kind": "embedded"}
    ours |= {"url": "127.0.0.1:2", "models": ("m",)}
    for port in (8100, 8200):
        http_url = f"127.0.0.1:{port}"
        ours["repository"] = str(tmp_path if port == 8100 else tmp_path.parent)
        records.remember(records.ServiceRecord(id=f"a-{port}", http_url=http_url, metrics_url="127.0.0.1:3", **ours))
    assert main.run(["serve", "--stop"]) == 2
    assert [state.state for state in service_states("a-8100")] == ["ended"]  # the id of the process is used again
    (own_services / "8100.json").write_text("{}")
    assert [state.service.id for state in service_states()] == ["a-8200"]


def test_a_start_forgets_the_dead_servers_of_its_repository_and_of_none(own_services, tmp_path):
    def record(port: int, repository: Path, started: int) -> records.ServiceRecord:
        urls = {"url": "127.0.0.1:2", "http_url": f"127.0.0.1:{port}", "metrics_url": "127.0.0.1:3"}
        more = {"pid": os.getpid(), "started": started, "kind": "embedded", "models": ("m",)}
        return records.ServiceRecord(id=f"a-{port}", repository=str(repository), **urls, **more)

    now = process_started(os.getpid())
    other = tmp_path / "other"
    other.mkdir()
    for port, repository, started in ((1, tmp_path, 1), (2, tmp_path / "gone", 1), (3, other, 1), (4, tmp_path, now)):
        records.remember(record(port, repository, started))
    records.remember(record(5, tmp_path, now))
    assert [one.http_port for one in records.services()] == [3, 4, 5]
