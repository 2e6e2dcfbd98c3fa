"""`rtool serve` outlives a crash of Triton and the death of a model's process, and says both."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rtool.converters.runtime.calling.access_key import find_key
from rtool.errors import PlatformError
from rtool.serving import TritonClient, deploy
from rtool.serving.server import supervision
from rtool.serving.server.stubs import StubWatch
from rtool.serving.server.supervision import Supervisor


@pytest.fixture
def serving(tmp_path, onnx_files):
    """(`rtool serve` in its own process, what it announced)."""
    root = tmp_path / "models"
    for name in ("live", "other"):
        deploy(onnx_files["reid"], name=name, repository=root, device="cpu")
    command = [sys.executable, "-m", "rtool", "serve", str(root), "--json"]
    command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        document = []
        while not document or document[-1] != "}\n":
            document.append(process.stdout.readline())
            assert document[-1], process.stderr.read()
        yield process, json.loads("".join(document))
        process.kill()


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def stub_of(model: str, server: int) -> int:
    return next(pid for pid in children(server) if f"/{model}/" in Path(f"/proc/{pid}/cmdline").read_text())


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def status(url: str, path: str, body: bytes | None = None) -> int:
    connection = http.client.HTTPConnection(*url.split(":"), timeout=10)
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("POST" if body else "GET", path, body)
        return connection.getresponse().status
    return 0


def wait_for(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_dead_stub_and_a_crash_are_said_and_mended_while_health_says_so(serving):
    process, ready = serving
    (server,) = children(process.pid)
    key = find_key(ready["url"])
    crops = np.ones((16, 3, 8, 4), np.float32)
    with TritonClient(ready["url"], "live") as client, TritonClient(ready["url"], "other") as other:
        expected = client.run(crops)[0]
        os.kill(stub_of("live", server), signal.SIGKILL)
        wait_for(lambda: status(ready["http_url"], "/v2/models/live/ready") != 200)
        assert status(ready["http_url"], "/v2/health/ready") != 200
        np.testing.assert_array_equal(other.run(crops)[0], expected)  # the other model goes on serving
        np.testing.assert_array_equal(client.run(crops)[0], expected)  # it waits until the model serves again
        assert children(process.pid) == [server]
        assert status(ready["http_url"], "/v2/models/live/infer", b"[" * 200_000) == 0
        np.testing.assert_array_equal(client.run(crops)[0], expected)  # and until the server does
    wait_for(lambda: find_key(ready["url"]) not in (None, key))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    lines = process.stderr.read().splitlines(keepends=True)
    said = "".join(line for line in lines if not line.startswith("waiting for"))
    assert "the process that runs live died; starting it again\nlive serves again\n" in said
    assert "Triton ended by itself: signal 11 (SIGSEGV)\nTriton serves again after" in said
    assert find_key(ready["url"]) is None


def test_restarts_wait_longer_and_longer_until_the_server_is_steady(monkeypatch):
    pauses, said = [], []
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(supervision.time, "sleep", pauses.append)
    monkeypatch.setattr(supervision.time, "monotonic", lambda: clock.now)
    outcomes = iter([*[PlatformError("no port")] * 7, None, None, None])

    def restart() -> None:
        if (outcome := next(outcomes)) is not None:
            raise outcome

    crashed = SimpleNamespace(exit_code=lambda: -11, tail=lambda: "", pid=1)
    facts = {"ready_seconds": 1.0, "control": "none", "metrics_url": "127.0.0.1:1", "asked_ports": (0, 0, 0)}
    server = SimpleNamespace(process=crashed, served_path=Path(), restart=restart, **facts)
    supervisor = Supervisor(server, said.append)
    supervisor.look()
    assert pauses == [1, 2, 4, 8, 10, 10, 10]
    supervisor.look()  # it crashed at once: the next pause is long
    assert pauses[7:] == [10]
    clock.now = 61.0
    supervisor.look()  # it crashed after a minute: no pause
    assert pauses[8:] == []
    assert supervisor.restarts == 3
    assert said[0] == "Triton ended by itself: signal 11 (SIGSEGV)"


def test_no_error_ends_the_supervisor(monkeypatch):
    """Its sockets keep the server's ports: where it ends, anybody may listen there."""
    said, looks = [], iter([OSError("disk full"), OSError("disk full"), RecursionError("deep"), KeyboardInterrupt()])

    def look() -> None:
        raise next(looks)

    process = SimpleNamespace(exit_code=lambda: None, tail=lambda: "", pid=os.getpid())
    supervisor = Supervisor(SimpleNamespace(process=process, served_path=Path(), control="none"), said.append)
    monkeypatch.setattr(supervisor, "look", look)
    monkeypatch.setattr(supervision.time, "sleep", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        supervisor.watch()
    before = "the supervisor goes on after an error"
    assert said == [f"{before}: OSError: disk full", f"{before}: RecursionError: deep"]


@pytest.mark.parametrize("code", [-35, 1])
def test_an_end_that_cannot_be_described_is_mended_too(code):
    """A signal without a name; a log that is gone."""

    def tail() -> str:
        raise IsADirectoryError("the log")

    said, restarts = [], []
    process = SimpleNamespace(exit_code=lambda: code, tail=tail, pid=os.getpid())
    facts = {"ready_seconds": 1.0, "control": "none", "metrics_url": "127.0.0.1:1", "asked_ports": (0, 0, 0)}
    server = SimpleNamespace(process=process, served_path=Path(), restart=lambda: restarts.append(1), **facts)
    Supervisor(server, said.append).look()
    assert restarts == [1]
    assert said[0].startswith(f"Triton ended by itself: exit code {code}")


def test_a_restart_that_fails_for_any_reason_is_tried_again(monkeypatch):
    outcomes, told = iter([OSError("no space left"), OverflowError("too large"), None]), []
    monkeypatch.setattr(supervision.time, "sleep", lambda _: None)

    def restart() -> None:
        if (outcome := next(outcomes)) is not None:
            raise outcome

    def tell(line: str) -> None:
        told.append(line)
        raise OSError("the terminal is gone")

    crashed = SimpleNamespace(exit_code=lambda: -11, tail=lambda: "", pid=1)
    facts = {"ready_seconds": 1.0, "control": "none", "metrics_url": "127.0.0.1:0", "asked_ports": (0, 0, 0)}
    supervisor = Supervisor(SimpleNamespace(process=crashed, served_path=Path(), restart=restart, **facts), tell)
    supervisor.look()
    assert supervisor.restarts == 1
    assert "Triton could not be started again: too large" in told
    assert told[-1].startswith("it serves without metrics")


def test_a_stub_that_dies_before_it_was_seen_is_noticed_once(tmp_path):
    """Its arguments, which name the model, are gone with it; the kernel keeps the program's name."""
    program = tmp_path / "triton_python_backend_stub"
    shutil.copy(shutil.which("sleep"), program)
    with subprocess.Popen([program, "60"]) as stub:
        while Path(f"/proc/{stub.pid}/comm").read_text().strip() != "triton_python_b":
            time.sleep(0.01)
        stub.kill()
        wait_for(lambda: state_of(stub.pid) == "Z")
        watch = StubWatch(os.getpid(), Path())
        assert [watch.deaths() for _ in range(3)] == [("",), (), ()]
        stub.wait()


def test_the_other_stubs_of_a_model_that_is_loaded_again_are_ended_if_they_stay(tmp_path):
    """Triton keeps the second stub of a packer whose first one died with a request on its way."""
    with contextlib.ExitStack() as running:
        ending, staying, other = (
            running.enter_context(stub_process(tmp_path, model)) for model in ("live", "live", "other")
        )
        watch = StubWatch(os.getpid(), tmp_path)
        watch.replace("live")
        new = running.enter_context(stub_process(tmp_path, "live"))
        ending.kill()
        wait_for(lambda: state_of(ending.pid) == "Z")
        assert watch.end_replaced(60) == 0
        assert watch.end_replaced(0) == 1
        assert staying.wait(10) == -signal.SIGKILL
        assert (new.poll(), other.poll()) == (None, None)
        assert [watch.deaths() for _ in range(3)] == [()] * 3
        new.kill()
        wait_for(lambda: state_of(new.pid) == "Z")
        assert [watch.deaths() for _ in range(3)] == [(), ("live",), ()]
        other.kill()


def stub_process(repository: Path, model: str) -> subprocess.Popen:
    """A process that a StubWatch takes for a stub of `model`."""
    script = repository / model / "1/model.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text("import time; time.sleep(60)")
    stub = subprocess.Popen(["triton_python_backend_stub", str(script)], executable=sys.executable)
    wait_for(lambda: str(script) in Path(f"/proc/{stub.pid}/cmdline").read_text())
    return stub


def test_a_death_of_which_the_model_is_not_known_starts_the_server_again():
    said, restarts = [], []
    process = SimpleNamespace(exit_code=lambda: None, tail=lambda: "", pid=os.getpid())
    more = {"restart": lambda: restarts.append(1), "ready_seconds": 1.0, "control": "explicit"}
    more["asked_ports"] = (0, 0, 0)
    supervisor = Supervisor(SimpleNamespace(process=process, served_path=Path(), metrics_url="", **more), said.append)
    supervisor._stubs = SimpleNamespace(deaths=lambda: ("",), note=lambda: (), end_replaced=lambda _: 0)
    supervisor.look()
    assert restarts == [1]
    assert said[0] == "the process that runs a model died; starting it again"


def test_a_child_that_is_no_stub_is_not_watched():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        time.sleep(0.5)  # now a zombie of this process
        watch = StubWatch(os.getpid(), Path())
        assert [watch.deaths() for _ in range(3)] == [()] * 3
        child.wait()
