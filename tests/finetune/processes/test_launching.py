"""Which device a process uses, and what is reported of one that died."""

import json
from types import SimpleNamespace

import pytest
import torch

from rtool.errors import DataError, PlatformError
from rtool.finetune.processes.launching import _reported_failure, failure_reported, resolve_device


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many GPUs, and variables that a launcher sets."""

    def arrange(gpus: int, variables: dict[str, str]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return arrange


@pytest.mark.parametrize(
    ("gpus", "variables", "device", "expected"),
    [
        (0, {}, "auto", "cpu"),
        (4, {}, "auto", "cuda:0"),
        (4, {}, "cuda:2", "cuda:2"),
        (4, {"RANK": "6", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}, "cuda", "cuda:2"),
        (4, {"RANK": "6", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, "cuda", "cuda:2"),
        (1, {"RANK": "6", "WORLD_SIZE": "8"}, "cuda", "cuda:0"),  # a container that sees one GPU
        (4, {"RANK": "6", "WORLD_SIZE": "8"}, "cpu", "cpu"),
    ],
)
def test_the_device_of_a_process(machine, gpus, variables, device, expected):
    machine(gpus, variables)
    assert resolve_device(device) == torch.device(expected)


@pytest.mark.parametrize(
    ("gpus", "variables", "device", "message"),
    [
        (0, {}, "cuda", "GPU 0 was asked for and this machine has 0"),
        (2, {"RANK": "6", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}, "cuda", "GPU 2 was asked for and this machine has 2"),
        (4, {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "cuda:0", "2 processes would share one GPU"),
        (4, {"RANK": "1", "WORLD_SIZE": "8"}, "auto", "LOCAL_RANK is not"),
    ],
)
def test_a_device_that_is_absent_or_not_its_own_is_refused(machine, gpus, variables, device, message):
    machine(gpus, variables)
    with pytest.raises(PlatformError, match=message):
        resolve_device(device)


def test_one_gpu_is_refused_to_processes_that_are_still_to_be_started(machine):
    machine(4, {})
    with pytest.raises(PlatformError, match="4 processes would share one GPU"):
        resolve_device("cuda:0", processes=4)


@pytest.mark.parametrize(
    ("exitcode", "message"),
    [
        (-9, "process 1 was ended by SIGKILL; the machine may be out of memory; --resume auto"),
        (-6, "process 1 was ended by SIGABRT; --resume auto"),
        (1, "process 1 ended with 1; see its output above"),
    ],
)
def test_a_process_that_died_without_an_error_is_reported(tmp_path, exitcode, message):
    cause = SimpleNamespace(get_first_failure=lambda: (1, SimpleNamespace(exitcode=exitcode)))
    with pytest.raises(PlatformError, match=message):
        raise _reported_failure(tmp_path, cause)


def test_the_first_error_of_a_worker_is_the_one_its_launcher_raises(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for message in ("the reason", "what followed from it"):
        with pytest.raises(DataError), failure_reported(tmp_path):
            raise DataError(message)
    assert json.loads((tmp_path / ".failure.json").read_text()) == {"kind": "DataError", "message": "the reason"}
    with pytest.raises(DataError, match="the reason"):
        raise _reported_failure(tmp_path, SimpleNamespace())
