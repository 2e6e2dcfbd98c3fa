"""What changes a server is closed to everybody but its owner: over HTTP, over gRPC, through /proc and shared memory."""

import http.client
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from rtool.converters.runtime.calling.access_key import KEY_NAME, AccessKey, find_key, grpc_headers, process_started
from rtool.errors import InputError, PlatformError
from rtool.serving.server.access import Access
from rtool.serving.server.process import ChildProcess

CLOSED = [
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/zz/load"),
    ("POST", "/v2/repository/models/reid/unload"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/systemsharedmemory/region/a/register"),
    ("POST", "/v2/cudasharedmemory/region/a/register"),
    ("POST", "/v2/systemsharedmemory/unregister"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/models/reid/trace/setting"),
]
OPEN = [
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/reid",
    "/v2/models/reid/ready",
    "/v2/models/reid/config",
]


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch, request):
    """Key folders of this test alone, unless it talks to the session's server."""
    if "server" not in request.fixturenames:
        monkeypatch.setenv("RTOOL_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


def ask(url: str, method: str, path: str, body: bytes = b"", **headers: str) -> int:
    connection = http.client.HTTPConnection(*url.split(":"), timeout=10)
    connection.request(method, path, body, headers)
    return connection.getresponse().status


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_a_closed_endpoint_needs_the_key(server, method, path):
    page = {"Origin": "https://elsewhere.example", "Content-Type": "text/plain"}
    for headers in ({}, page, {KEY_NAME: "guess"}, {f"triton-grpc-protocol-{KEY_NAME}": find_key(server.url)}):
        assert ask(server.http_url, method, path, b"{}", **headers) == 403


@pytest.mark.parametrize("path", OPEN)
def test_what_only_reads_stays_open(server, path):
    deadline = time.monotonic() + 20  # the server is shared, and not ready while a version of another test is unloaded
    while path == "/v2/health/ready" and ask(server.http_url, "GET", path) != 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ask(server.http_url, "GET", path) == 200


def test_the_key_opens_model_control_over_http(server):
    assert ask(server.http_url, "POST", "/v2/repository/index", b"{}", **{KEY_NAME: find_key(server.http_url)}) == 200


def test_grpc_needs_the_key_too(server):
    with triton.InferenceServerClient(server.url) as client:
        calls = [
            lambda headers: client.get_model_repository_index(headers=headers),
            lambda headers: client.load_model("zz", headers=headers, config="{}", files={"file:1/model.py": b"x"}),
            lambda headers: client.unload_model("reid", headers=headers),
            lambda headers: client.register_system_shared_memory("a", "/a", 1, headers=headers),
            lambda headers: client.get_system_shared_memory_status(headers=headers),
            lambda headers: client.get_cuda_shared_memory_status(headers=headers),
            lambda headers: client.update_log_settings({"log_verbose_level": 1}, headers=headers),
            lambda headers: client.get_trace_settings(headers=headers),
        ]
        for call in calls:
            for headers in ({}, {f"triton-grpc-protocol-{KEY_NAME}": "guess"}, {KEY_NAME: find_key(server.url)}):
                with pytest.raises(InferenceServerException, match="restricted"):
                    call(headers)
        ready = {entry.name for entry in client.get_model_repository_index(headers=grpc_headers(server.url)).models}
    assert "reid" in ready


def test_neither_the_process_list_nor_the_log_shows_the_key(server):
    key = find_key(server.url)
    command = Path(f"/proc/{server.process.pid}/cmdline").read_text()
    assert "--http-restricted-api=(hidden)" in command
    assert key not in command
    assert key not in server.process.log.read_text()


def test_only_the_owner_can_open_shared_memory(server):
    regions = list(Path("/dev/shm").glob(f"rtool_{os.getpid()}_*"))
    assert regions
    assert {stat.S_IMODE(region.stat().st_mode) for region in regions} == {0o600}


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root to become another user")
def test_another_user_finds_no_key_and_reads_no_request(server):
    look = f"cat /proc/{server.process.pid}/environ /dev/shm/rtool_{os.getpid()}_* 2>/dev/null | wc -c"
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    found = subprocess.run([*other, "sh", "-c", look], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "0"


def a_key(tmp_path: Path, **changes: int) -> Access:
    access = Access(tmp_path / "models", (8100, 8101, 8102))
    access.key = AccessKey(**{**vars(access.key), **changes})
    access.publish()
    return access


def test_a_key_file_is_private_found_by_both_ports_and_removed(tmp_path):
    access = a_key(tmp_path)
    assert access.path == tmp_path / "cache/keys/8100.key"
    assert stat.S_IMODE(access.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(access.path.parent.stat().st_mode) == 0o700
    assert find_key("127.0.0.1:8101") == find_key("localhost:8100") == access.key.key
    assert find_key("127.0.0.1:8102") is None
    assert find_key("gpu-host:8101") is None  # never sent to another machine
    access.remove()
    assert find_key("127.0.0.1:8101") is None
    assert not list((tmp_path / "cache/keys").iterdir())


def test_a_second_start_keeps_its_key_when_the_first_one_ends(tmp_path):
    first, second = a_key(tmp_path), a_key(tmp_path)
    first.remove()
    assert find_key("127.0.0.1:8101") == second.key.key


def test_the_key_of_another_process_that_runs_is_not_overwritten(tmp_path):
    """Two starts on one port at the same moment: the later one is refused, and the first keeps its key."""
    first = a_key(tmp_path)
    other = os.getppid()
    theirs = AccessKey("theirs", 8100, 8101, other, process_started(other))
    first.path.write_text(theirs.text())
    with pytest.raises(PlatformError, match=f"process {other}"):
        a_key(tmp_path)
    assert find_key("127.0.0.1:8101") == "theirs"


def test_the_runtime_folder_is_preferred(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    assert a_key(tmp_path).path == tmp_path / "run/rtool/8100.key"


def test_a_key_never_lies_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("RTOOL_CACHE", str(tmp_path / "models/cache"))
    with pytest.raises(PlatformError, match=r"lies inside the model repository.*XDG_RUNTIME_DIR"):
        a_key(tmp_path)


def test_a_key_of_a_dead_or_another_process_is_not_sent(tmp_path):
    a_key(tmp_path, started=1)  # the id is used again by a process that started later
    assert find_key("127.0.0.1:8101") is None
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    a_key(tmp_path, pid=gone.pid, started=process_started(os.getpid()))
    assert find_key("127.0.0.1:8101") is None


def test_a_start_removes_the_keys_of_servers_that_were_killed_and_no_others(tmp_path):
    gone = Access(tmp_path / "models", (8200, 8201, 8202))
    gone.key = AccessKey(**{**vars(gone.key), "started": 1})
    gone.publish()
    alive = Access(tmp_path / "models", (8300, 8301, 8302))
    alive.publish()
    a_key(tmp_path)
    assert sorted(path.name for path in (tmp_path / "cache/keys").iterdir()) == ["8100.key", "8300.key"]


@pytest.mark.parametrize("spoil", ["mode", "link", "folder", "text"])
def test_a_key_file_that_others_could_have_written_is_not_used(tmp_path, spoil):
    path = a_key(tmp_path).path
    if spoil == "mode":
        path.chmod(0o644)
    elif spoil == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    elif spoil == "folder":
        path.parent.chmod(0o777)
    else:
        path.write_text(json.dumps({"key": 5}))
    assert find_key("127.0.0.1:8101") is None


@pytest.mark.parametrize("url", ["127.0.0.1:70000", "127.0.0.1:0", "127.0.0.1", "a b:8001", "127.0.0.1:8001/x"])
def test_a_malformed_address_is_refused(url):
    with pytest.raises(InputError, match="Triton URL"):
        find_key(url)


def test_a_hidden_argument_reaches_the_program_behind_a_wrapper_and_no_process_list(tmp_path):
    """The wrapper is a script that starts the program by exec, as users write them."""
    program = tmp_path / "tritonserver"
    shutil.copy(shutil.which("sleep"), program)
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\ntrue\nexec {program} "$@"\n')
    wrapper.chmod(0o755)
    child = ChildProcess(
        [str(wrapper), "(hidden)"], os.environ, tmp_path / "log", hidden={"(hidden)": "60"}, program="tritonserver"
    )
    try:
        assert Path(f"/proc/{child.pid}/cmdline").read_bytes().split(b"\0")[1] == b"(hidden)"
        with pytest.raises(subprocess.TimeoutExpired):  # it sleeps: the argument was a number
            child._process.wait(0.3)
    finally:
        child.stop(0.0)


def test_a_program_that_is_never_reached_gets_no_secret(tmp_path):
    child = ChildProcess(
        ["/bin/echo", "(hidden)"], os.environ, tmp_path / "log", hidden={"(hidden)": "secret"}, program="x"
    )
    child._process.wait()
    assert (tmp_path / "log").read_text() == "(hidden)\n"


def test_a_child_cannot_open_its_files_to_others(tmp_path):
    code = "import os; f = os.open('made', os.O_CREAT | os.O_RDWR, 0o666); os.fchmod(f, 0o644)"
    child = ChildProcess(
        [sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r}); {code}"], os.environ, tmp_path / "log"
    )
    child._process.wait()
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o600


@pytest.mark.skipif(sys.platform != "linux", reason="sched(7) is Linux's")
@pytest.mark.parametrize(("given", "kept"), [("SCHED_OTHER", "SCHED_BATCH"), ("SCHED_IDLE", "SCHED_IDLE")])
def test_a_child_is_scheduled_as_batch_work_unless_somebody_chose_a_policy(tmp_path, given, kept):
    code = "import os; print(os.sched_getscheduler(0))"
    start = (
        f"import os, sys; os.sched_setscheduler(0, os.{given}, os.sched_param(0)); "
        "from pathlib import Path; from rtool.serving.server.process import ChildProcess; "
        f"child = ChildProcess([sys.executable, '-c', {code!r}], os.environ, Path(sys.argv[1])); child._process.wait()"
    )
    subprocess.run([sys.executable, "-c", start, str(tmp_path / "log")], check=True)
    assert int((tmp_path / "log").read_text()) == getattr(os, kept)
