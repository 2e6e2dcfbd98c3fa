"""What a killed server leaves is removed by the next start, and nothing else is."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory

import pytest
import tritonclient.grpc as triton

from rtool.converters.runtime.calling.access_key import grpc_headers, process_started
from rtool.serving.server import remains


@pytest.fixture
def places(tmp_path, monkeypatch):
    """(temporary folder, shared memory) of this test alone."""
    for name in ("tmp", "shm"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(remains, "_SHARED_MEMORY", tmp_path / "shm")
    return tmp_path / "tmp", tmp_path / "shm"


def test_only_what_a_dead_owner_named_is_removed(places):
    temporary, memory = places
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as dead:
        started = process_started(dead.pid)
        dead.communicate(b"\n")
    (temporary / f"rtool-triton-{dead.pid}-{started}-abc").mkdir()
    (temporary / f"rtool-triton-{dead.pid}-{started}-abc/triton.log").touch()
    again = f"rtool-triton-{os.getpid()}-{process_started(os.getpid()) + 1}-abc"  # the id is used again
    (temporary / again).mkdir()
    (memory / f"rtool_{dead.pid}_{started}_0123_region").touch()
    own, foreign = remains.scratch_folder(), temporary / "rtool-triton-mine"
    foreign.mkdir()
    (memory / f"{remains.memory_prefix()}region").touch()
    (memory / "triton_python_backend_shm_region_1").touch()
    remains.sweep_dead()
    assert sorted(temporary.iterdir()) == sorted([own, foreign])
    assert len(list(memory.iterdir())) == 2
    remains.remove_memory("rtool_")
    assert [path.name for path in memory.iterdir()] == ["triton_python_backend_shm_region_1"]


def test_what_others_put_into_the_public_places_neither_goes_nor_keeps_a_server_from_starting(places, monkeypatch):
    temporary, memory = places
    impossible = "99999999999999999999"
    deep = temporary / "rtool-triton-1-1-x"
    deep.mkdir()
    (memory / "rtool_1_1_x").touch()
    for name in (f"rtool-triton-{impossible}-1-x", f"rtool-triton-1-{impossible}{impossible}-x"):
        (temporary / name).mkdir()
    (memory / f"rtool_{impossible}_1_x").touch()
    (memory / "rtool_1_1_folder").mkdir()
    before = sorted([*temporary.iterdir(), *memory.iterdir()])
    with monkeypatch.context() as another:
        another.setattr(os, "geteuid", lambda: os.getuid() + 1)
        remains.sweep_dead()
    assert sorted([*temporary.iterdir(), *memory.iterdir()]) == before
    here = os.open(deep, os.O_RDONLY)
    for _ in range(1200):  # more than Python's recursion takes
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    remains.sweep_dead()
    assert not (memory / "rtool_1_1_x").exists()
    assert (temporary / f"rtool-triton-{impossible}-1-x").exists()
    assert process_started(10**20) is None
    subprocess.run(["rm", "-rf", deep], check=True)


def test_the_memory_of_a_client_that_was_killed_is_unregistered(server):
    with (
        shared_memory("rtool-test-gone") as gone,
        shared_memory("rtool-test-here") as here,
        triton.InferenceServerClient(server.url) as client,
    ):
        headers = dict(grpc_headers(server.url))
        for name, memory in (("gone", gone), ("here", here)):
            client.register_system_shared_memory(name, f"/{memory.name}", 16, headers=headers)
        gone.unlink()
        assert remains.unregister_abandoned(server.url) == 1
        listed = client.get_system_shared_memory_status(headers=headers).regions
        assert ("gone" in listed, "here" in listed) == (False, True)
        client.unregister_system_shared_memory("here", headers=headers)


@contextlib.contextmanager
def shared_memory(name: str) -> Iterator[SharedMemory]:
    memory = SharedMemory(f"{name}-{os.getpid()}", create=True, size=16)
    yield memory
    memory.close()
    with contextlib.suppress(FileNotFoundError):
        memory.unlink()
