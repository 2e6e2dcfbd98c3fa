"""While Triton is down, its ports stay those of the user who serves: nobody else may answer his clients."""

import os
import signal
import socket
import time

import numpy as np
import pytest

from rtool.errors import PlatformError
from rtool.serving import TritonClient, TritonServer, deploy
from rtool.serving.server.ports import HOST, HeldPorts, choose_ports


def bound(port: int, *options: int, host: str = HOST, uid: int | None = None) -> bool:
    """Whether a process, of another user where `uid` is given, can bind `port` with these socket options."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if uid is not None:
                os.setuid(uid)
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
                for option in options:
                    one.setsockopt(socket.SOL_SOCKET, option, 1)
                one.bind((host, port))
                one.listen()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


WAYS = [(), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)]


def test_kept_ports_cannot_be_bound_by_chance():
    held, ports = HeldPorts(), choose_ports((0, 0, 0))
    held.take(ports)
    assert held.taken
    try:
        for port in ports[:2]:
            assert not bound(port)
            assert not bound(port, socket.SO_REUSEADDR)
            assert bound(port, socket.SO_REUSEADDR, socket.SO_REUSEPORT)  # as Triton does, of the same user
        with pytest.raises(PlatformError, match="port is in use"):
            choose_ports(ports)
    finally:
        held.release()
    assert bound(ports[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_user_cannot_bind_them_in_any_way():
    held, ports = HeldPorts(), choose_ports((0, 0, 0))
    held.take(ports)
    try:
        # Each of them would get what is sent to 127.0.0.1, or to localhost.
        for host in (HOST, "0.0.0.0", "::", f"::ffff:{HOST}", "::1"):
            assert not any(bound(port, *options, host=host, uid=65534) for port in ports[:2] for options in WAYS)
    finally:
        held.release()
    assert bound(ports[0], uid=65534)  # so that it was the port, and nothing else, that refused


def test_a_server_that_was_ended_serves_again_on_its_ports_whoever_waited_for_them(tmp_path, onnx_files):
    deploy(onnx_files["reid"], name="live", repository=tmp_path / "models", device="cpu")
    crops = np.ones((16, 3, 8, 4), np.float32)
    with TritonServer(tmp_path / "models", stop_timeout=0.0) as server, socket.socket() as waiting:
        urls, metrics = (server.url, server.http_url), int(server.metrics_url.rpartition(":")[2])
        os.kill(server.process.pid, signal.SIGKILL)
        while server.process.exit_code() is None:
            time.sleep(0.01)
        for url in urls:
            assert not bound(int(url.rpartition(":")[2]), socket.SO_REUSEADDR)
        waiting.bind((HOST, metrics))
        waiting.listen()
        server.restart()
        assert (server.url, server.http_url) == urls
        assert server.metrics_url != f"{HOST}:{metrics}"
        with TritonClient(server.url, "live") as client:
            assert client.run(crops)[0].shape == (16, 8)


def test_a_metrics_port_that_is_taken_again_and_again_does_not_keep_a_server_down(tmp_path, onnx_files, monkeypatch):
    deploy(onnx_files["reid"], name="live", repository=tmp_path / "models", device="cpu")
    with TritonServer(tmp_path / "models", stop_timeout=0.0) as server, socket.socket() as taking:
        url = server.url
        os.kill(server.process.pid, signal.SIGKILL)
        while server.process.exit_code() is None:
            time.sleep(0.01)
        taking.bind((HOST, 0))
        taking.listen()
        taken = taking.getsockname()[1]
        monkeypatch.setattr("rtool.serving.server.server._metrics_port", lambda _: taken)
        server.restart()
        assert (server.url, server.metrics_url) == (url, f"{HOST}:0")
        with TritonClient(server.url, "live") as client:
            assert client.run(np.ones((16, 3, 8, 4), np.float32))[0].shape == (16, 8)
