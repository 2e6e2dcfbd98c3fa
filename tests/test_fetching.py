"""A file is fetched whole and with the right hash, or nothing is left; from a server on this machine."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import rtool
from rtool.cli.main import run
from rtool.errors import InputError

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Files(BaseHTTPRequestHandler):
    """/whole, /cut (ends early), /unstated (no length), /away and /file (redirects); others are not found."""

    def do_GET(self):
        name = self.path.partition("?")[0].strip("/")
        if name in ("away", "file"):
            self.send_response(302)
            self.send_header("Location", "http://example.org/m.onnx" if name == "away" else "file:///etc/hostname")
            self.end_headers()
            return
        if name not in ("whole", "cut", "unstated"):
            self.send_error(404)
            return
        self.send_response(200)
        if name != "unstated":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:-1] if name == "cut" else CONTENT)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("name", ["whole", "unstated"])
def test_a_file_with_the_right_hash_is_kept(address, tmp_path, name):
    seen = []
    path = tmp_path / "m.onnx"
    found = rtool.fetch(f"{address}/{name}", path, sha256=DIGEST.upper(), report=lambda *n: seen.append(n))
    assert (found.path.read_bytes(), found.size, found.loaded) == (CONTENT, len(CONTENT), True)
    assert seen[-1] == (len(CONTENT), len(CONTENT) if name == "whole" else None)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    again = rtool.fetch(f"{address}/gone", tmp_path / "m.onnx", sha256=DIGEST)
    assert not again.loaded


@pytest.mark.parametrize(
    ("name", "options", "cause"),
    [
        ("whole", {"sha256": "0" * 64}, f"its SHA-256 is {DIGEST}, not 0000"),
        ("whole", {"sha256": "abc"}, "expected 64 hexadecimal digits"),
        ("whole", {"largest_gb": 1e-6}, "larger than 1e-06 GB"),
        ("unstated", {"largest_gb": 1e-6}, "larger than 1e-06 GB"),
        ("cut", {}, r"ended after 1,279,999 of 1,280,000 bytes|the connection broke"),
        ("gone", {}, "the server answers 404"),
        ("away", {}, r"http://example\.org/m\.onnx: expected an address that begins with https"),
        ("file", {}, "file:///etc/hostname. is not allowed"),
    ],
)
def test_anything_else_leaves_nothing(address, tmp_path, name, options, cause):
    with pytest.raises(InputError, match=cause):
        rtool.fetch(f"{address}/{name}", tmp_path / "m.onnx", **{"sha256": DIGEST, **options})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://localhost/m.onnx", "http://example.org/m.onnx", "m.onnx"]
)
def test_only_https_is_taken_from_other_machines(url, tmp_path):
    with pytest.raises(InputError, match="expected an address that begins with https"):
        rtool.fetch(url, tmp_path / "m.onnx", sha256=DIGEST)


def test_a_file_that_is_there_is_kept(address, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "whole").write_text("mine")
    assert run(["fetch", f"{address}/whole", "--sha256", DIGEST]) == 2
    assert "is there already, with SHA-256" in capsys.readouterr().err
    assert (tmp_path / "whole").read_text() == "mine"
    assert run(["fetch", f"{address}/whole?version=2", "--sha256", DIGEST, "-o", "new.onnx", "--quiet"]) == 0
    assert (tmp_path / "new.onnx").read_bytes() == CONTENT
    assert run(["fetch", f"{address}/", "--sha256", DIGEST]) == 2
    assert "does not end with the name of a file" in capsys.readouterr().err
    assert run(["fetch", f"{address}/whole", "--sha256", DIGEST, "-o", "nowhere/m.onnx"]) == 2
    assert "the folder nowhere does not exist" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be reached"):
        rtool.fetch("http://127.0.0.1:9/m.onnx", tmp_path / "m.onnx", sha256=DIGEST)
