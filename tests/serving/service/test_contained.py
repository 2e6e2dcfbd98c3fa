"""A container is started, watched, started again and stopped; docker is a program that answers on the ports given."""

import http.client
import os
import signal
import subprocess
import sys

import pytest

from rtool.converters.runtime.calling.access_key import find_key
from rtool.serving import deploy

DOCKER = f"""#!{sys.executable}
import http.server, os, sys
if sys.argv[1] in ("info", "image"):
    sys.exit(0)
port = next(int(a.split(":")[1]) for a in sys.argv if a.startswith("--publish="))
assert len(os.environ["RTOOL_TRITON_KEY"]) == 64
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/crash":
            os._exit(3)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
print("serving", os.getpid(), flush=True)
http.server.HTTPServer(("127.0.0.1", port), Answers).serve_forever()
"""


@pytest.fixture
def environment(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text(DOCKER)
    (tmp_path / "bin/docker").chmod(0o755)
    (tmp_path / "run").mkdir(mode=0o700)
    return {**os.environ, "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path / "run")}


def get(url: str, path: str) -> int:
    try:
        connection = http.client.HTTPConnection(*url.split(":"), timeout=5)
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0


def test_a_container_is_kept_serving_and_stopped(tmp_path, onnx_files, environment, monkeypatch):
    deploy(onnx_files["reid"], name="m", repository=tmp_path / "models", device="cpu")
    command = [sys.executable, "-m", "rtool", "serve", str(tmp_path / "models"), "-q", "--log", str(tmp_path / "log")]
    command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serve:
        try:
            grpc = serve.stdout.readline().strip()
            assert grpc, serve.stderr.read()
            monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
            assert find_key(grpc) is not None
            (key,) = (tmp_path / "run/rtool").glob("*.key")
            url = f"127.0.0.1:{key.stem}"
            assert get(url, "/crash") == 0
            said = ""
            while "serves again" not in said:
                line = serve.stderr.readline()
                assert line, said
                said += line
            assert get(url, "/v2/health/ready") == 200
            serve.send_signal(signal.SIGTERM)
            assert serve.wait(30) == 0
            assert get(url, "/v2/health/ready") == 0
            assert "server: container nvcr.io/" in said
            assert "the container ended by itself with exit code 3\n" in said
            assert find_key(grpc) is None
            assert (tmp_path / "log").read_text().count("serving ") == 2
        finally:
            serve.kill()
