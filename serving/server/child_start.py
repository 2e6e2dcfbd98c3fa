"""Run by path, not imported: prepares this process, then becomes the given program.

    python -I -S child_start.py PARENT free|traced PROGRAM ARGUMENT...

1. What it creates belongs to its owner alone: umask 077, and a seccomp filter that answers `fchmod` to a mode with
   rights of others with success and without effect. Triton's Python backend makes its shared memory with 0644 and
   insists on it by fchmod (Boost.Interprocess), so that the umask alone would let other users read requests.
2. It gets SIGTERM when the process PARENT dies (PR_SET_PDEATHSIG).
3. It is scheduled as batch work (SCHED_BATCH of sched(7)), with the threads and stubs that it starts: one that wakes
   does not interrupt one that computes. In turns on two cores that the client shares, and where it does the same, a
   fixed batch over shared memory kept .92 of the rows per second of one process instead of .88, by gRPC .88 instead of
   .80; at 0.8 of the saturation the 95th percentile of packed frames was 46 ms instead of 53.
4. `traced`: it stops after each exec for its parent (PTRACE_TRACEME), see `hidden_arguments.py`.
5. What is left of its process group a second after its end is killed. A stub of Triton's Python backend notices that
   the server is gone, and then waits for ever where requests were on their way. So a fork of this process stays, whose
   parent is not the program, and looks twice a second whether the program still runs.
6. It runs in the root folder: Triton's stubs import modules from their working folder first, and the folder in which
   a command was typed may be one where others can write.
7. It may open 65,536 files where its user may: 1,024 idle connections silence a server with the usual limit.

Exit codes before the program runs: 1 the parent is gone, 97 tracing is forbidden, 98 the filter is.
The filter is the classic BPF program of seccomp(2), for x86-64 and AArch64.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
import time
from contextlib import suppress

_SET_DEATH_SIGNAL, _SET_NAME, _SET_FILTER, _NO_NEW_PRIVILEGES, _TRACE_ME = 1, 15, 22, 38, 0
_FILTER_MODE = 2
_FCHMOD = {"x86_64": (0xC000003E, 91), "aarch64": (0xC00000B7, 52)}
"""Machine -> (audit architecture, number of the system call)."""

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _SUCCEED = 0x7FFF0000, 0x00050000
_OTHERS = 0o077
_FILES = 65536
_LOOK_SECONDS = 0.5
_GRACE_SECONDS = 1.0
_WATCH_NAME = b"rtool-watch"
_NUMBER, _ARCHITECTURE, _MODE = 0, 4, 24
"""Offsets in `struct seccomp_data`: the second argument of fchmod, low half, is the mode."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def keep_modes_private(libc: ctypes.CDLL) -> bool:
    """Install the filter for this process and its children; False when the system forbids it."""
    if platform.machine() not in _FCHMOD:
        return False
    architecture, number = _FCHMOD[platform.machine()]
    instructions = (
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, 5, architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 3, number),
        (_LOAD, 0, 0, _MODE),
        (_ANY_BIT, 0, 1, _OTHERS),
        (_RETURN, 0, 0, _SUCCEED),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    program = _Program(len(instructions), code)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == -1:
        return False
    return int(libc.prctl(_SET_FILTER, _FILTER_MODE, ctypes.byref(program), 0, 0)) == 0


def schedule_as_batch() -> None:
    """Leave the usual policy for SCHED_BATCH; any other was chosen by whoever started this, and stays."""
    with suppress(OSError):  # a sandbox may refuse it; it changes the speed alone
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def end_group_with_leader(libc: ctypes.CDLL) -> None:
    """Start a process that kills this one's group when this one, its leader, has ended; returns in this one.

    It is forked twice, so that a program that waits for all its children does not wait for it.
    """
    leader = os.getpid()
    if os.getpgid(0) != leader:
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # sent to the group, they are not for it
    began = _started(leader)
    if middle := os.fork():
        os.waitpid(middle, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    if os.fork():
        os._exit(0)
    libc.prctl(_SET_NAME, _WATCH_NAME)
    while _started(leader) == began:
        time.sleep(_LOOK_SECONDS)
    time.sleep(_GRACE_SECONDS)
    os.killpg(leader, signal.SIGKILL)  # this process too


def _started(pid: int) -> str:
    """When a running process was started, in ticks since boot; empty for one that ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return fields[19] if fields[0] not in "ZX" else ""


def open_more_files() -> None:
    """Raise the soft limit of open files, as far as the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main(arguments: list[str]) -> None:
    """Prepare and exec; returns only by an exception."""
    parent, mode, program = int(arguments[0]), arguments[1], arguments[2:]
    os.umask(_OTHERS)
    os.chdir("/")
    open_more_files()
    libc = ctypes.CDLL(None)
    if sys.platform == "linux":
        end_group_with_leader(libc)
        libc.prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
        schedule_as_batch()
        if not keep_modes_private(libc):
            os._exit(98)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if mode == "traced" and libc.ptrace(_TRACE_ME, 0, None, None) == -1:
        os._exit(97)
    os.execv(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
