"""Bulk commands do not interrupt what computes beside them."""

import errno
import os
import subprocess
import sys
from threading import Thread

import pytest

from rtool.cli.embedding_options import schedule_for
from rtool.finetune.processes.batch_scheduling import schedule_as_batch, scheduled_as_batch
from rtool.serving.server import child_start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sched(7) is Linux's")


@pytest.fixture
def policy():
    """Reads this thread's policy, the usual one at first; it is put back."""
    before = os.sched_getscheduler(0)
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    yield lambda: os.sched_getscheduler(0)
    os.sched_setscheduler(0, before, os.sched_param(0))


def test_threads_and_programs_started_afterwards_are_batch_work_too(policy):
    schedule_as_batch()
    found = []
    thread = Thread(target=lambda: found.append(policy()))
    thread.start()
    thread.join()
    code = "import os; print(os.sched_getscheduler(0))"
    program = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert (policy(), found, int(program)) == (os.SCHED_BATCH, [os.SCHED_BATCH], os.SCHED_BATCH)


def test_a_policy_that_somebody_chose_stays():
    code = "; ".join(
        [
            "import os",
            "from rtool.finetune.processes.batch_scheduling import schedule_as_batch",
            "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))",
            "schedule_as_batch()",
            "print(os.sched_getscheduler(0) == os.SCHED_IDLE)",
        ]
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


def test_a_block_puts_back_what_it_changed(policy):
    with scheduled_as_batch():
        assert policy() == os.SCHED_BATCH
        with scheduled_as_batch():
            assert policy() == os.SCHED_BATCH
        assert policy() == os.SCHED_BATCH
    assert policy() == os.SCHED_OTHER


@pytest.mark.parametrize("refusing", ["sched_getscheduler", "sched_setscheduler"])
@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOSYS])
def test_a_sandbox_that_refuses_changes_nothing(policy, monkeypatch, refusing, number):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, refusing, refuse)
        assert not schedule_as_batch()
        child_start.schedule_as_batch()
    assert policy() == os.SCHED_OTHER


def test_only_commands_that_ask_a_server_are(policy):
    schedule_for("model.onnx", None)
    assert policy() == os.SCHED_OTHER
    schedule_for("model.onnx", "triton://127.0.0.1:8001/osnet")
    assert policy() == os.SCHED_BATCH
