"""A real Triton is ready when entered, gone when left, and explains itself when it cannot start."""

import concurrent.futures
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from rtool.converters.runtime.calling.access_key import find_key
from rtool.errors import GateError, InputError, PlatformError, RtoolError
from rtool.serving import TritonClient, TritonServer, deploy, deploy_packer, rollback
from rtool.serving.server.ports import choose_ports
from rtool.serving.server.process import ChildProcess
from rtool.serving.server.server import is_ready


@pytest.fixture
def root(tmp_path: Path, onnx_files) -> Path:
    deploy(onnx_files["reid"], name="live", repository=tmp_path / "models", device="cpu")
    return tmp_path / "models"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_a_published_version_reaches_a_running_server_and_can_be_rolled_back(
    server, repository, onnx_files, make_model, run_local, tmp_path
):
    crops = np.random.default_rng(0).normal(size=(16, 3, 8, 4)).astype(np.float32)
    second = make_model("reid", tmp_path / "second.onnx", seed=9, features=11)
    deploy(onnx_files["reid"], name="live", repository=repository, device="cpu", url=server.url)
    assert deploy(second, name="live", repository=repository, url=server.url, new_contract=True).version == 2
    with TritonClient(server.url, "live") as client:  # no version: the highest that is ready
        np.testing.assert_array_equal(client.run(crops)[0], run_local(second, crops)[0])
    with pytest.raises(InputError, match="versions ready: 2"):
        TritonClient(server.url, "live", 1)
    assert rollback("live", repository=repository, url=server.url).version == 1
    with TritonClient(server.url, "live") as client:
        np.testing.assert_array_equal(client.run(crops)[0], run_local(onnx_files["reid"], crops)[0])


def test_a_version_that_the_server_does_not_reproduce_is_withdrawn(
    server, repository, onnx_files, make_model, tmp_path
):
    noisy = make_model("noisy", tmp_path / "noisy.onnx")
    deploy(onnx_files["reid"], name="steady", repository=repository, device="cpu", url=server.url)
    config = (repository / "steady/config.pbtxt").read_text()
    with pytest.raises(GateError, match=r"version 2 was refused .* version 1 is still served: .*max relative error"):
        deploy(noisy, name="steady", repository=repository, url=server.url, new_contract=True)
    with pytest.raises(GateError, match="nothing is served under this name"):
        deploy(noisy, name="new", repository=repository, url=server.url)
    assert not (repository / "new").exists()
    assert not (repository / "steady/2").exists()
    assert (repository / "steady/config.pbtxt").read_text() == config
    with TritonClient(server.url, "steady") as client:
        assert client.run(np.zeros((16, 3, 8, 4), np.float32))[0].shape == (16, 8)


def test_two_versions_are_served_side_by_side(server, repository, onnx_files, make_model, run_local, tmp_path):
    second = make_model("reid", tmp_path / "second.onnx", seed=9)
    deploy(onnx_files["reid"], name="pair", repository=repository, device="cpu")
    deploy(second, name="pair", repository=repository, also_serve=[1], url=server.url)
    crops = np.random.default_rng(0).normal(size=(16, 3, 8, 4)).astype(np.float32)
    for version, model in ((1, onnx_files["reid"]), (2, second)):
        with TritonClient(server.url, "pair", version) as client:
            np.testing.assert_array_equal(client.run(crops)[0], run_local(model, crops)[0])


def test_nothing_is_left_when_the_server_stops_or_its_owner_is_killed(root, tmp_path):
    code = f"""
import sys, time
from rtool.serving import TritonServer
with TritonServer({str(root)!r}) as server:
    print(server.process.pid, server.url, flush=True)
    time.sleep(60)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # a killed process leaves its log behind
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    pid = int(owner.stdout.readline().split()[0])
    group = members_of(pid)
    assert len(group) >= 3  # the server, the watcher of its group and the stub of its model
    owner.kill()
    owner.wait()
    assert wait_until(lambda: not any(alive(member) for member in group))


def test_no_stub_outlives_a_server_that_is_killed_with_requests_on_their_way(root, tmp_path):
    """A stub whose request to another model was never answered waits for ever; only its group's watcher ends it."""
    deploy_packer("live", name="pack", repository=root)
    ended = threading.Event()

    def ask(url: str) -> None:
        with TritonClient(url, "pack", timeout=5) as client, contextlib.suppress(RtoolError):
            while not ended.is_set():
                client.run(np.zeros((3, 3, 8, 4), np.float32))

    with TritonServer(root) as server, concurrent.futures.ThreadPoolExecutor(8) as clients:
        group = members_of(server.process.pid)
        for _ in range(8):
            clients.submit(ask, server.url)
        assert wait_until(lambda: answered(server.url, "pack") > 20)
        os.kill(server.process.pid, signal.SIGKILL)
        left = not wait_until(lambda: not any(alive(member) for member in group), 10)
        ended.set()
        assert len(group) >= 4  # the server, the watcher and two stubs
        assert not left


def test_an_answer_without_values_has_its_shape(tmp_path):
    shape = ["N", "M"]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    deploy(tmp_path / "m.onnx", name="m", repository=tmp_path / "models", device="cpu", batch="dynamic", force=True)
    given = grpc.InferInput("x", [4, 0], "FP32")
    given.set_data_from_numpy(np.zeros((4, 0), np.float32))
    with (
        TritonServer(tmp_path / "models", stop_timeout=0.0) as server,
        grpc.InferenceServerClient(server.url) as client,
    ):
        assert client.infer("m", [given]).as_numpy("y").shape == (4, 0)


def test_a_request_that_the_target_refuses_fails_alone_in_a_packer(tmp_path):
    """An index beyond the table; the others that Triton joined with it are answered."""
    index = helper.make_tensor_value_info("index", TensorProto.INT64, [4, 1])
    row = helper.make_tensor_value_info("row", TensorProto.FLOAT, [4, 1, 2])
    table = numpy_helper.from_array(np.arange(20, dtype=np.float32).reshape(10, 2), "table")
    graph = helper.make_graph([helper.make_node("Gather", ["table", "index"], ["row"])], "g", [index], [row], [table])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    deploy(tmp_path / "m.onnx", name="rows", repository=tmp_path / "models", device="cpu", force=True)
    deploy_packer("rows", name="pack", repository=tmp_path / "models", max_delay=300, instances=1)

    def ask(url: str, position: int) -> list | str:
        given = grpc.InferInput("index", [1, 1], "INT64")
        given.set_data_from_numpy(np.array([[position]]))
        try:
            with grpc.InferenceServerClient(url) as client:
                return client.infer("pack", [given]).as_numpy("row").ravel().tolist()
        except InferenceServerException as error:
            return str(error)

    with (
        TritonServer(tmp_path / "models", stop_timeout=0.0) as server,
        concurrent.futures.ThreadPoolExecutor(4) as four,
    ):
        answers = list(four.map(ask, [server.url] * 4, [1, 2, 999, 3]))
        batches = executed(server.url, "pack")
    assert answers[:2] + answers[3:] == [[2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]
    assert "INVALID_ARGUMENT" in answers[2].split("]")[0]
    assert "out of data bounds" in answers[2]
    assert batches < 4  # so that some were in one batch with it


def executed(url: str, model: str) -> int:
    with grpc.InferenceServerClient(url) as client:
        return client.get_inference_statistics(model).model_stats[0].execution_count


def answered(url: str, model: str) -> int:
    with grpc.InferenceServerClient(url) as client:
        return client.get_inference_statistics(model).model_stats[0].inference_stats.success.count


def test_what_a_child_leaves_ends_with_it(tmp_path):
    child = ChildProcess(["/bin/sh", "-c", "trap '' TERM; sleep 60 & echo $!; wait"], os.environ, tmp_path / "log")
    assert wait_until(lambda: child.tail().strip().isdigit())
    left = int(child.tail())
    os.kill(child.pid, signal.SIGKILL)
    assert wait_until(lambda: child.exit_code() == -signal.SIGKILL)
    assert wait_until(lambda: not alive(left) and not members_of(child.pid), 10)


def members_of(group: int) -> list[int]:
    """The processes of a group that run."""
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [pid for pid in pids if group_of(pid) == group and alive(pid)]


def group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


@pytest.mark.parametrize("name", ["a b", "it's", 'say "x"', "$(touch x)", "ü;&|"])
def test_a_repository_is_served_whatever_its_path(tmp_path, onnx_files, name):
    """Triton's Python back end hands the path to a shell; a name that the shell takes for its own ends the stub."""
    deploy(onnx_files["reid"], name="live", repository=tmp_path / name, device="cpu")
    second = deploy(onnx_files["reid"], name="live", repository=tmp_path / name).version
    with TritonServer(tmp_path / name, stop_timeout=0.0) as server, TritonClient(server.url, "live", second) as client:
        assert client.run(np.zeros((16, 3, 8, 4), np.float32))[0].shape == (16, 8)


def test_whoever_finds_a_server_ready_finds_its_key(root, monkeypatch):
    found = []

    def look(port: int) -> bool:
        if ready := is_ready(port):
            found.append(find_key(f"127.0.0.1:{port}"))
        return ready

    monkeypatch.setattr("rtool.serving.server.server.is_ready", look)
    with TritonServer(root, stop_timeout=0.0):
        assert found
        assert None not in found


def test_a_port_in_use_is_named_with_the_way_out(root):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(PlatformError, match=rf"grpc port {port} on 127\.0\.0\.1.*--grpc-port"):
            TritonServer(root, grpc_port=port).start()


def test_a_free_port_that_another_program_binds_meanwhile_is_replaced(root, monkeypatch):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        lost = (choose_ports((0, 0, 0))[0], busy.getsockname()[1], choose_ports((0, 0, 0))[2])
        answers = iter([lost, choose_ports((0, 0, 0))])
        monkeypatch.setattr("rtool.serving.server.server.choose_ports", lambda _: next(answers))
        with TritonServer(root, stop_timeout=0.0) as server, TritonClient(server.url, "live") as client:
            assert client.batch == 16


@pytest.mark.parametrize("ports", [(70000, 0, 0), (8000, 8000, 0), (-1, 0, 0)])
def test_impossible_ports_are_refused(ports):
    with pytest.raises(InputError, match="ports"):
        choose_ports(ports)


def test_a_model_that_fails_to_load_shows_the_end_of_the_log(root):
    path = root / "live/config.pbtxt"
    path.write_text(path.read_text().replace("count: 1", "count: 1 gpus: [7]"))
    server = TritonServer(root)
    with pytest.raises(InputError, match=r"Triton ended with exit code 1; its log says:\n(.*\n)*.*live"):
        server.start()
    with pytest.raises(PlatformError, match="not running"):
        _ = server.process


def test_a_child_that_ignores_sigterm_is_killed(tmp_path):
    script = "trap '' TERM; echo ready; while true; do sleep 0.1; done"
    child = ChildProcess(["/bin/sh", "-c", script], os.environ, tmp_path / "log")
    assert wait_until(lambda: "ready" in child.tail())
    child.stop(grace=0.2)
    assert child.exit_code() == -signal.SIGKILL


def test_a_log_that_grows_too_long_is_begun_again(tmp_path):
    child = ChildProcess(["/bin/sh", "-c", "echo first; read line; echo second"], os.environ, tmp_path / "log")
    assert wait_until(lambda: "second" in child.tail())
    child.bound_log(100)
    assert child.tail() == "  first\n  second"
    child.bound_log(5)
    assert (tmp_path / "log").read_text() == child.tail() == ""
    assert (tmp_path / "log.1").read_text() == "first\nsecond\n"


def test_a_server_looks_for_nothing_in_the_folder_of_the_command_and_may_open_many_files(tmp_path, monkeypatch):
    """Its stubs import Python modules from their working folder first, where others may be able to write."""
    monkeypatch.chdir(tmp_path)
    script = "import os, resource; print(os.getcwd(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    child = ChildProcess([sys.executable, "-c", script], os.environ, tmp_path / "log")
    assert wait_until(lambda: child.exit_code() is not None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if 0 <= hard < 65536 else 65536
    assert child.tail().split() == ["/", str(max(soft, most))]


def test_a_log_that_is_continued_reports_only_its_own_run(tmp_path):
    log = tmp_path / "log"
    log.write_text("error: of an earlier run\n")
    child = ChildProcess(["/bin/sh", "-c", "echo 'error: of this one'"], os.environ, log)
    assert wait_until(lambda: child.exit_code() is not None)
    assert child.complaints() == "  error: of this one"
    assert log.read_text() == "error: of an earlier run\nerror: of this one\n"


def start_serving(root: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "rtool", "serve", str(root), *options]
    command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_serve_announces_where_it_listens_and_ends_cleanly_on_sigterm(root):
    """For people, and as one JSON object for scripts: two servers at once, because starting and stopping is waiting."""
    with start_serving(root) as plain, start_serving(root, "--json") as scripted:
        lines = [plain.stdout.readline() for _ in range(6)]
        assert lines[0].startswith("ready in "), plain.stderr.read()
        assert "triton://127.0.0.1:" in lines[1]
        assert "Triton 24.10 lacks" in lines[4]
        document = []
        while not document or document[-1] != "}\n":
            document.append(scripted.stdout.readline())
            assert document[-1], scripted.stderr.read()
        ready = json.loads("".join(document))
        with TritonClient(ready["url"], ready["models"][0]) as client:
            assert client.batch == 16
        for serving in (plain, scripted):
            serving.send_signal(signal.SIGTERM)
        for serving in (plain, scripted):
            assert serving.wait(30) == 0
            assert serving.stdout.read() == ""
            first, *told = serving.stderr.read().splitlines()
            assert first.startswith("server: embedded Triton 24.10: no tritonserver on PATH; no container: ")
            assert all(line.startswith("waiting for ") for line in told), told
