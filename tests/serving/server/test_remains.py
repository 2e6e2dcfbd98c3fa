"""What a killed server leaves is removed by the next start, and nothing else is."""

import os
import subprocess
import sys
import tempfile

import pytest

from rtool.converters.runtime.calling.access_key import process_started
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
