"""Each cause of a failed request is an error of its own, by status and server state; transient ones are retried."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from rtool.converters.runtime.calling.causes import Call
from rtool.converters.runtime.calling.failures import (
    BackendFailedError,
    BadRequestError,
    ControlDeniedError,
    RequestTimeoutError,
    ServerOverloadedError,
    ServerStoppingError,
    ServerUnreachableError,
    UnknownModelError,
)
from rtool.converters.runtime.calling.retrying import retry
from rtool.errors import InputError, PlatformError
from rtool.finetune.processes.locking import exclusive
from rtool.serving import ServingSettings, TritonClient, TritonServer, deploy
from rtool.serving.publishing.on_server.rollout import load_on_server

URL = "127.0.0.1:1"


def failure(status: str, message: str = "as Triton says it") -> InferenceServerException:
    return InferenceServerException(message, f"StatusCode.{status}")


def server(
    ready: bool | None = True,
    model_ready: bool = True,
    index: dict[str, str] | None = None,
    unloads: bool = False,
) -> SimpleNamespace:
    """A server in a state: `ready` None answers nothing; `index` None refuses the index to those without a key.

    `unloads`: an old version is being unloaded, so that the server is not ready while the model is.
    """

    def is_ready(**_):
        if ready is None:
            raise failure("UNAVAILABLE")
        return ready

    def states(**_):
        if index is None:
            raise failure("UNAVAILABLE", "restricted")
        entries = [SimpleNamespace(name=name, version="1", state=state) for name, state in index.items()]
        return SimpleNamespace(models=entries)

    return SimpleNamespace(
        is_server_ready=is_ready,
        is_model_ready=lambda *_, **__: (bool(ready) or unloads) and model_ready,
        get_model_repository_index=states,
    )


@pytest.mark.parametrize(
    ("status", "state", "expected"),
    [
        ("INVALID_ARGUMENT", server(), BadRequestError),
        ("UNIMPLEMENTED", server(), BadRequestError),
        ("DEADLINE_EXCEEDED", server(), RequestTimeoutError),
        ("INTERNAL", server(), BackendFailedError),
        ("UNKNOWN", server(), BackendFailedError),
        ("UNAVAILABLE", server(ready=None), ServerUnreachableError),
        ("NOT_FOUND", server(ready=None), ServerUnreachableError),  # Triton says so while it stops
        ("NOT_FOUND", server(ready=False), ServerStoppingError),
        ("UNAVAILABLE", server(ready=False), ServerStoppingError),
        ("NOT_FOUND", server(ready=False, index={"reid": "LOADING"}), ServerStoppingError),
        ("NOT_FOUND", server(ready=True, index={"reid": "UNLOADING"}), ServerStoppingError),
        ("NOT_FOUND", server(ready=False, index={"face": "READY"}), UnknownModelError),  # whatever the others do
        ("NOT_FOUND", server(ready=True, model_ready=False), UnknownModelError),
        ("NOT_FOUND", server(ready=True, model_ready=False, index={"reid": "UNAVAILABLE"}), UnknownModelError),
        ("UNAVAILABLE", server(ready=True, model_ready=False), UnknownModelError),
        ("UNAVAILABLE", server(), ServerOverloadedError),
        ("UNAVAILABLE", server(ready=False, unloads=True), ServerOverloadedError),
        ("NOT_FOUND", server(ready=False, unloads=True), ServerStoppingError),  # asked between two versions
        ("UNAVAILABLE", server(index={"reid": "READY"}), ServerOverloadedError),
    ],
)
def test_status_and_state_name_the_cause_whatever_the_message(status, state, expected):
    for message in ("Request for unknown model", "Stub process", "queue", ""):
        assert type(Call(state, URL, "reid").cause(failure(status, message))) is expected


def test_a_restricted_call_names_the_key_and_not_the_load():
    assert type(Call(server(), URL, "reid", control=True).cause(failure("UNAVAILABLE"))) is ControlDeniedError


def test_only_a_dead_process_makes_a_failed_model_worth_a_retry():
    assert Call(server(), URL, "reid").cause(failure("INTERNAL")).transient
    assert not Call(server(), URL, "reid").cause(failure("UNKNOWN")).transient


def test_transient_failures_are_retried_until_one_attempt_succeeds():
    outcomes = iter([failure("UNAVAILABLE"), failure("UNAVAILABLE"), "answer"])

    def attempt(seconds: float) -> str:
        assert 0 < seconds <= 20
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    cause = Call(server(), URL, "reid").cause
    assert retry(attempt, cause, failure("UNAVAILABLE"), time.monotonic() + 20) == "answer"


@pytest.mark.parametrize(
    ("status", "expected"), [("UNAVAILABLE", ServerOverloadedError), ("INVALID_ARGUMENT", BadRequestError)]
)
def test_retries_end_with_the_deadline_and_with_a_cause_that_stays(status, expected):
    attempts = []

    def attempt(_: float) -> None:
        attempts.append(0)
        raise failure(status)

    with pytest.raises(expected):
        retry(attempt, Call(server(), URL, "reid").cause, failure(status), time.monotonic() + 0.3)
    assert bool(attempts) == (expected is ServerOverloadedError)


def test_a_real_server_that_is_full_stopping_or_gone_is_told_apart(tmp_path, onnx_files):
    root = tmp_path / "models"
    folder = deploy(
        onnx_files["face"], name="face", repository=root, settings=ServingSettings(max_delay=50)
    ).path.parent
    config = folder / "config.pbtxt"
    text = config.read_text()
    assert "dynamic_batching {" in text
    config.write_text(
        text.replace("dynamic_batching {", "dynamic_batching { default_queue_policy { max_queue_size: 1 }", 1)
    )
    face = np.zeros((1, 6, 6, 3), np.uint8)
    with TritonServer(root, stop_timeout=0.0) as running:
        client = TritonClient(running.url, "face", timeout=60)
        expected = client.run(face)[0]

        def ask(_: int) -> type:
            """One attempt, without the client's retries."""
            try:
                client._infer([client.filled_tensor(client.inputs[0], face)], 60)
            except InferenceServerException as error:
                return type(client._call.cause(error))
            return type(None)

        with ThreadPoolExecutor(4) as crowd:
            assert set(crowd.map(ask, range(16))) == {ServerOverloadedError, type(None)}
        for answer in [client.submit(face) for _ in range(6)]:  # the same overload, waited out
            np.testing.assert_array_equal(answer.result()[0], expected)
    client.timeout = 0.2
    with pytest.raises(ServerUnreachableError, match="rtool serve"):
        client.run(face)


_MYSELF = f"process {os.getpid()}"


def test_a_command_says_what_it_waits_for_and_nothing_when_it_need_not(capsys, tmp_path):
    with exclusive(tmp_path / "lock", timeout=5, purpose="publishing"):
        assert capsys.readouterr().err == ""
        with (
            pytest.raises(PlatformError, match=f"({_MYSELF}|another process) has held this lock"),
            exclusive(tmp_path / "lock", timeout=1.0, purpose="publishing"),
        ):
            pass
    said = f"that holds the lock {tmp_path / 'lock'} while publishing, 1 s at most\n"
    assert capsys.readouterr().err in (f"waiting for {_MYSELF} {said}", f"waiting for another process {said}")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("2: FLOCK  ADVISORY  WRITE {pid} {place} 0 EOF", True),
        ("1: POSIX  ADVISORY  WRITE {pid} {place} 0 EOF\n2: FLOCK  ADVISORY  WRITE {pid} {place} 0 EOF", True),
        ("2: -> FLOCK  ADVISORY  WRITE {pid} {place} 0 EOF", False),
        ("2: FLOCK  ADVISORY  WRITE {pid} 00:00:1 0 EOF", False),
        ("2: FLOCK  ADVISORY  WRITE 4999999 {place} 0 EOF", False),
        ("2: FLOCK  ADVISORY  WRITE -1 {place} 0 EOF", False),
        ("2: FLOCK\n", False),
        ("\n", False),
        (None, False),
    ],
)
def test_the_holder_is_named_where_the_list_of_locks_tells_it_and_it_lives(tmp_path, monkeypatch, line, told):
    (tmp_path / "lock").touch()
    file = (tmp_path / "lock").stat()
    place = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"

    def read(path: Path) -> str:
        if line is None:
            raise FileNotFoundError(path)
        return line.format(pid=os.getpid(), place=place)

    holder = _MYSELF if told else "another process"
    monkeypatch.setattr(Path, "read_text", read)
    with (
        exclusive(tmp_path / "lock", timeout=5, purpose="publishing"),
        pytest.raises(PlatformError, match=f": {holder} has held this lock"),
        exclusive(tmp_path / "lock", timeout=0.1, purpose="publishing"),
    ):
        pass


def test_a_load_without_the_key_is_denied_and_a_missing_model_named(server, monkeypatch):
    with pytest.raises(InputError, match=r"cannot load 'absent'"):
        load_on_server(server.url, "absent")
    monkeypatch.setattr("rtool.serving.publishing.on_server.rollout.grpc_headers", lambda _: {})
    with pytest.raises(ControlDeniedError, match="run the command as that user"):
        load_on_server(server.url, "reid")
