"""Gives a program an argument that other users of the machine cannot read.

Triton takes its access key on the command line only, and everybody may read every command line in /proc. So the
program is started with a placeholder, and the argument itself lies in its environment, which only its owner may read
(/proc/PID/environ). The child stops right after exec (PTRACE_TRACEME), before its first instruction; there the pointer
`argv[i]` is made to point into the environment. /proc/PID/cmdline shows the bytes of the original argument area and so
keeps showing the placeholder.

The layout of the stack at that moment (argc, the pointers argv, a null, the pointers envp) is that of the System V
ABI; /proc/PID/stat states the addresses (proc(5): startstack, env_start, env_end). A wrapper script in front of the
program is stepped over: its exec of the real program is awaited. A placeholder that was not replaced is an option that
Triton cannot parse, so that it ends instead of starting without a key.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ...errors import PlatformError

__all__ = ["place_hidden"]

_REFUSALS = {
    97: "forbids a process to trace its own child (ptrace), so Triton's access key cannot be kept from other users",
    98: "allows no seccomp filter, so Triton's shared memory cannot be kept from other users",
}
"""Exit codes of `child_start.py`."""

_CONTINUE, _DETACH = 7, 17
_POINTER = struct.Struct("@P")
_SECONDS = 30.0
_POLL_SECONDS = 0.002


def place_hidden(pid: int, program: str, hidden: Mapping[str, str]) -> None:
    """Wait until the traced child `pid` runs `program` (a file name's beginning), replace its arguments, let it run.

    `hidden` maps each placeholder among the arguments to the name of the environment variable that holds the argument.
    Returns also when the child ended before, whose exit code then says why. Call it from the thread that started the
    child: for the kernel, that thread is the tracer.

    Raises:
        PlatformError: this system forbids tracing or seccomp filters, or the program was not reached within 30 s.
    """
    deadline = time.monotonic() + _SECONDS
    while True:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT | os.WNOHANG)
        if found is None:
            if time.monotonic() > deadline:
                raise PlatformError(f"process {pid}: {program} was not started within {_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)
            continue
        if found.si_code not in (os.CLD_TRAPPED, os.CLD_STOPPED):
            if found.si_code == os.CLD_EXITED and found.si_status in _REFUSALS:
                raise PlatformError(
                    f"this system {_REFUSALS[found.si_status]}; allow it, or serve with `rtool serve --container`"
                )
            return
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        if found.si_status == signal.SIGTRAP and _runs(pid, program):
            _replace(pid, hidden)
            _ptrace(_DETACH, pid, 0)
            return
        _ptrace(_CONTINUE, pid, 0 if found.si_status == signal.SIGTRAP else found.si_status)


def _runs(pid: int, program: str) -> bool:
    with suppress(OSError):
        return Path(os.readlink(f"/proc/{pid}/exe")).name.startswith(program)
    return False


def _replace(pid: int, hidden: Mapping[str, str]) -> None:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    stack, env_start, env_end = (int(fields[number - 3]) for number in (28, 50, 51))
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(env_start)
        environment = memory.read(env_end - env_start)
        memory.seek(stack)
        (count,) = _POINTER.unpack(memory.read(_POINTER.size))
        for index in range(1, count):
            slot = stack + _POINTER.size * (index + 1)
            memory.seek(slot)
            memory.seek(_POINTER.unpack(memory.read(_POINTER.size))[0])
            argument = memory.read(256).split(b"\0", 1)[0].decode(errors="replace")
            if argument in hidden:
                entry = f"{hidden[argument]}=".encode()
                # The block is a run of NAME=value strings, each ended by a zero byte.
                value = (b"\0" + environment).index(b"\0" + entry) + len(entry)
                memory.seek(slot)
                memory.write(_POINTER.pack(env_start + value))


def _ptrace(request: int, pid: int, signal_number: int) -> None:
    call = ctypes.CDLL(None, use_errno=True).ptrace
    call.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    call.restype = ctypes.c_long
    if call(request, pid, None, signal_number) == -1:
        number = ctypes.get_errno()
        raise PlatformError(f"process {pid}: cannot be traced ({os.strerror(number)})")
