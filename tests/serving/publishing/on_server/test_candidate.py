"""Verify, then switch: on a running server nobody gets an answer of a version that was not checked first."""

import contextlib
import http.client
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from rtool.converters.runtime.calling.access_key import grpc_headers
from rtool.errors import GateError, InputError, PlatformError
from rtool.serving import TritonClient, TritonServer, deploy, deploy_packer, rollback
from rtool.serving.publishing import exported_first
from rtool.serving.publishing.on_server import candidate, fitting_server
from rtool.serving.publishing.on_server.rollout import load_on_server
from rtool.serving.server.supervision import Supervisor


class Clients:
    """Threads that ask for one model without a version, and count whose answers they get."""

    def __init__(self, url: str, model: str, rows: np.ndarray, golden: dict[str, np.ndarray]) -> None:
        self.counts = dict.fromkeys((*golden, "wrong", "errors"), 0)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url, model, rows, golden)) for _ in range(2)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url: str, model: str, rows: np.ndarray, golden: dict[str, np.ndarray]) -> None:
        with TritonClient(url, model) as client:
            while not self._stop.is_set():
                try:
                    (answer,) = client.run(rows)
                except Exception:
                    self.counts["errors"] += 1
                    continue
                whose = [name for name, wanted in golden.items() if np.allclose(answer, wanted, rtol=0, atol=1e-5)]
                self.counts[whose[0] if whose else "wrong"] += 1
                time.sleep(0.001)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_ready(server: TritonServer) -> bool:
    connection = http.client.HTTPConnection(server.http_url, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    return False


def known_models(server: TritonServer) -> set[str]:
    client = triton.InferenceServerClient(server.url)
    entries = client.get_model_repository_index(headers=dict(grpc_headers(server.url))).models
    client.close()
    return {entry.name for entry in entries if entry.state == "READY"}


def test_under_load_only_checked_versions_answer(server, repository, onnx_files, make_model, run_local, tmp_path):
    noisy = make_model("noisy", tmp_path / "noisy.onnx", features=8)
    second = make_model("reid", tmp_path / "second.onnx", seed=9)
    crops = np.random.default_rng(0).normal(size=(16, 3, 8, 4)).astype(np.float32)
    golden = {"first": run_local(onnx_files["reid"], crops)[0], "second": run_local(second, crops)[0]}
    deploy(onnx_files["reid"], name="busy", repository=repository, device="cpu", url=server.url)
    with Clients(server.url, "busy", crops, golden) as clients:
        with pytest.raises(GateError, match=r"version 2 was refused before it answered anybody, version 1 is still"):
            deploy(noisy, name="busy", repository=repository, url=server.url)
        assert clients.counts["second"] == 0
        assert deploy(second, name="busy", repository=repository, url=server.url).version == 2
        time.sleep(0.2)
        assert clients.counts["second"] > 0
        assert rollback("busy", repository=repository, url=server.url).version == 1
    assert (clients.counts["wrong"], clients.counts["errors"]) == (0, 0)
    assert clients.counts["first"] > 0
    assert not list(repository.glob(".candidate-*"))
    assert not any(name.startswith(".candidate-") for name in known_models(server))
    wait_until_ready(server)


def test_a_server_that_refuses_loads_leaves_disk_and_server_as_they_were(tmp_path, onnx_files, make_model):
    root = tmp_path / "models"
    second = make_model("reid", tmp_path / "second.onnx", seed=9)
    for model in (onnx_files["reid"], second):
        deploy(model, name="m", repository=root, device="cpu")
    before = files_of(root)
    with TritonServer(root, control="none", stop_timeout=0.0) as server:
        with pytest.raises(InputError, match="--control explicit"):
            rollback("m", repository=root, url=server.url)
        with pytest.raises(InputError, match="--control explicit"):
            deploy(second, name="m", repository=root, url=server.url)
        assert files_of(root) == before
        assert sorted(path.name for path in root.iterdir()) == [".rtool.lock", "m"]
        with TritonClient(server.url, "m", 2) as client:
            assert client.run(np.zeros((16, 3, 8, 4), np.float32))[0].shape == (16, 8)


def test_a_server_that_is_not_there_changes_nothing(tmp_path, onnx_files):
    root = tmp_path / "models"
    for _ in range(2):
        deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    before = files_of(root)
    for call in (
        lambda: deploy(onnx_files["reid"], name="m", repository=root, url="127.0.0.1:1"),
        lambda: rollback("m", repository=root, url="127.0.0.1:1"),
    ):
        with pytest.raises(PlatformError, match=r"127.0.0.1:1: the server does not answer"):
            call()
        assert files_of(root) == before


def test_a_server_that_ends_during_the_trial_changes_nothing(tmp_path, onnx_files, monkeypatch):
    root = tmp_path / "models"
    for _ in range(2):
        deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    before = files_of(root)
    monkeypatch.setattr(exported_first, "require_fitting_server", lambda *_: None)
    with pytest.raises(PlatformError, match=r"version 2 is still served: .*does not answer"):
        deploy(onnx_files["reid"], name="m", repository=root, url="127.0.0.1:1")
    assert files_of(root) == before


def test_a_server_of_another_repository_is_named_before_the_model_is_read(server, repository, tmp_path):
    """The names of the models are the same in both, so that only looking into the repository tells."""
    root = tmp_path / "models"
    for folder in filter(Path.is_dir, repository.iterdir()):
        (root / folder.name).mkdir(parents=True)
    for place in (root, tmp_path / "absent"):
        with pytest.raises(
            InputError, match=r"does this server read another repository\? It does not see what lies in"
        ):
            deploy(tmp_path / "not_read.onnx", name="reid", repository=place, url=server.url)
    assert not (tmp_path / "absent").exists()
    assert not [path for path in (*root.iterdir(), *repository.iterdir()) if path.name.startswith(".candidate-")]
    with pytest.raises(InputError, match=r"not_read\.onnx: no such file"):
        deploy(tmp_path / "not_read.onnx", name="reid", repository=repository, url=server.url)


def test_a_program_that_accepts_connections_and_is_no_triton_is_said(repository, onnx_files, monkeypatch):
    monkeypatch.setattr(fitting_server, "_ASK_SECONDS", 1.0)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        url = f"127.0.0.1:{stranger.getsockname()[1]}"
        with pytest.raises(PlatformError, match=f"{url}: the server does not answer within 1 s"):
            deploy(onnx_files["reid"], name="reid", repository=repository, url=url)


@pytest.mark.parametrize(
    "act",
    [
        "publish",
        pytest.param("new", marks=pytest.mark.slow),
        "rollback",
        pytest.param("placeholder", marks=pytest.mark.slow),
    ],
)
def test_a_switch_that_fails_after_all_puts_everything_back(
    server, repository, onnx_files, make_model, tmp_path, monkeypatch, act
):
    name = f"undone_{act}"
    other = make_model("face", tmp_path / "other.onnx", seed=4)
    if act != "new":
        deploy(onnx_files["face"], name=name, repository=repository, device="cpu", url=server.url)
    if act == "rollback":
        deploy(other, name=name, repository=repository, url=server.url)
    if act == "placeholder":
        (repository / name / "1/model.onnx").unlink()
        other = onnx_files["face"]
    before = files_of(repository)
    real = candidate.serve_version

    def refusing(url, folder, version):
        real(url, folder, version)
        if folder.name == name:
            raise GateError("the numbers moved")

    monkeypatch.setattr(candidate, "serve_version", refusing)

    def change() -> None:
        if act == "rollback":
            rollback(name, repository=repository, url=server.url)
            return
        rows = np.random.default_rng(1).integers(0, 256, (1, 6, 6, 3), dtype=np.uint8)
        deploy(other, name=name, repository=repository, device="cpu", url=server.url, warmup={"faces": rows})

    with pytest.raises(GateError, match="the numbers moved"):
        change()
    assert files_of(repository) == before
    if act in ("publish", "rollback"):
        with TritonClient(server.url, name, 2 if act == "rollback" else 1) as client:
            assert client.run(np.zeros((1, 6, 6, 3), np.uint8))[0].shape == (1, 4)
    if act == "new":
        assert name not in known_models(server)


def test_a_candidate_that_a_dead_publisher_left_is_removed(server, repository, onnx_files):
    left = repository / ".candidate-orphaned"
    (left / "1").mkdir(parents=True)
    (left / "1/model.onnx").write_bytes(onnx_files["reid"].read_bytes())
    deploy(onnx_files["reid"], name="orphaned", repository=repository, device="cpu", url=server.url)
    assert not left.exists()


def test_a_packer_is_rolled_back_against_the_file_of_its_target(server, repository):
    deploy_packer("reid", name="fronted", repository=repository)
    deploy_packer("reid", name="fronted", repository=repository, instances=1)
    load_on_server(server.url, "fronted")
    code = repository / "fronted/1/model.py"
    assert rollback("fronted", repository=repository, url=server.url).version == 1
    code.write_text(code.read_text().replace("result[start:end]", "result[start:end] * 2"))
    (repository / "fronted/1/manifest.json").unlink()  # so that only the numbers can tell
    rollback("fronted", repository=repository, to=2, url=server.url)
    with pytest.raises(GateError, match=r"version 1 was refused .*version 2 is still served"):
        rollback("fronted", repository=repository, to=1, url=server.url)


def wait_until_ready(server: TritonServer) -> None:
    deadline = time.monotonic() + 20  # not ready while a version before is unloaded
    while not is_ready(server):
        assert time.monotonic() < deadline
        time.sleep(0.1)


REFUSED = {
    "a GPU that is not there": lambda text: text.replace("count: 1", "count: 1 gpus: [7]"),
    "an accelerator that the back end lacks": lambda text: (
        text + 'optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }\n'
    ),
    "answers out of turn": lambda text: text + "model_transaction_policy { decoupled: true }\n",
}


@pytest.fixture
def watched(onnx_files, tmp_path):
    """A server of its own that serves `asked`, and its supervisor, as `rtool serve` runs both."""
    deploy(onnx_files["reid"], name="asked", repository=tmp_path / "models", device="cpu")
    ended = threading.Event()
    with TritonServer(tmp_path / "models", stop_timeout=0.0) as running:
        supervisor = Supervisor(running, lambda _: None)

        def watch() -> None:
            while not ended.wait(0.1):
                supervisor.look()

        thread = threading.Thread(target=watch)
        thread.start()
        yield running
        ended.set()
        thread.join()


def test_after_refused_loads_the_server_is_ready_again(watched, onnx_files):
    """Triton alone answers 400 after one; after several, release 24.10 ends by a signal once in a while."""
    config = watched.repository / "asked" / "config.pbtxt"
    for edit in REFUSED.values():
        sound = config.read_text()
        config.write_text(edit(sound))
        with pytest.raises((InputError, PlatformError), match="was refused before it answered anybody"):
            deploy(onnx_files["reid"], name="asked", repository=watched.repository, device="cpu", url=watched.url)
        config.write_text(sound)
        wait_until_ready(watched)
        assert known_models(watched) == {"asked"}


@pytest.mark.parametrize("new", [False, True])
def test_after_a_switch_that_was_refused_the_server_is_ready_and_serves_what_it_did(
    server, repository, onnx_files, make_model, run_local, tmp_path, monkeypatch, new
):
    name = f"refused_{new}"
    crops = np.random.default_rng(3).normal(size=(16, 3, 8, 4)).astype(np.float32)
    golden = {"first": run_local(onnx_files["reid"], crops)[0]}
    second = make_model("reid", tmp_path / "second.onnx", seed=9)
    if not new:
        deploy(onnx_files["reid"], name=name, repository=repository, device="cpu", url=server.url)
    before = files_of(repository)
    real = candidate.serve_version

    def spoiled(url, folder, version):
        if folder.name == name:
            text = folder.config_path.read_text()
            folder.config_path.write_text(text.replace("count: 1", "count: 1 gpus: [7]"))
        real(url, folder, version)

    monkeypatch.setattr(candidate, "serve_version", spoiled)
    with contextlib.nullcontext() if new else Clients(server.url, name, crops, golden) as clients:
        with pytest.raises(InputError, match=f"cannot load '{name}'"):
            deploy(second, name=name, repository=repository, device="cpu", url=server.url)
        wait_until_ready(server)
    assert files_of(repository) == before
    if new:
        assert name not in known_models(server)
    else:
        assert (clients.counts["wrong"], clients.counts["errors"]) == (0, 0)
        assert clients.counts["first"] > 0
