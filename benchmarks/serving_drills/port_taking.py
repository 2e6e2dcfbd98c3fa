"""kill -9 of Triton while another user of the machine tries all the time to listen on its ports.

Whoever listens there while the server is down sees the images of its clients and answers them. The other user is
`nobody`, which only root can become; as any other user this drill is refused.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import PlatformError
from .drill_models import DrillModels
from .kills import Served, answers_as, deploy_first
from .process_tree import gone, wait_until

__all__ = ["PortTaking", "take_ports"]

_NOBODY = 65534
_BACK_SECONDS = 60.0
_STEADY_SECONDS = 2.0

# Becomes the other user once Python has started, for that user may not be able to read the interpreter.
_TAKER = """
import os, select, socket, sys
nobody, *ports = [int(word) for word in sys.argv[1:]]
os.setgroups([])
os.setgid(nobody)
os.setuid(nobody)
hosts = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0")]
try:
    socket.socket(socket.AF_INET6).close()
    hosts += [(socket.AF_INET6, host) for host in ("::1", "::", "::ffff:127.0.0.1")]
except OSError:
    pass  # a kernel without IPv6
options = ((), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT))
ways = [(family, host, port, chosen) for family, host in hosts for port in ports for chosen in options]
tries = taken = 0
print("ready", flush=True)
while not select.select([0], [], [], 0)[0]:
    for family, host, port, chosen in ways:
        tries += 1
        with socket.socket(family) as one:
            for option in chosen:
                one.setsockopt(socket.SOL_SOCKET, option, 1)
            try:
                one.bind((host, port))
                one.listen()
                taken += 1
            except OSError:
                pass
print(tries, taken, os.getuid(), flush=True)
"""


@dataclass(frozen=True)
class PortTaking:
    """Of `kills` of Triton: tries of user `uid` to listen on its HTTP and gRPC ports, how many succeeded.

    Tried are the loopback addresses of IPv4 and IPv6, and all addresses, each with and without the reuse options.

    `back` are the seconds until the right answers came again, after each kill; None: not within 60 s.
    """

    kills: int
    tries: int
    taken: int
    uid: int
    back: tuple[float | None, ...]


def take_ports(models: DrillModels, repository: Path, *, kills: int = 3) -> PortTaking:
    """Kill Triton under `rtool serve` `kills` times while another user tries to take its ports.

    Raises:
        PlatformError: this process may not become another user, or there is no model to begin with.
    """
    if os.getuid() != 0:
        raise PlatformError("the drill of the ports needs root, to be another user of the machine; leave `ports` out")
    deploy_first(models.files["A"], repository)
    served = Served(repository)
    try:
        right = answers_as(models, "A", served.url)
        ports = [address.rpartition(":")[2] for address in (served.http_url, served.url)]
        with _taker(ports) as taker:
            back: list[float | None] = []
            while len(back) < kills and None not in back:
                pid = served.parts("tritonserver")[0]
                os.kill(pid, signal.SIGKILL)
                wait_until(partial(gone, [pid]), 5)
                back.append(wait_until(right, _BACK_SECONDS))
                time.sleep(_STEADY_SECONDS)
            said, _ = taker.communicate("stop\n", 30)
            if taker.returncode:
                raise PlatformError(f"the other user ended with exit code {taker.returncode} before the drill did")
    finally:
        served.stop()
    tries, taken, uid = (int(word) for word in said.split())
    return PortTaking(len(back), tries, taken, uid, tuple(back))


@contextmanager
def _taker(ports: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """The other user at work; ended on the way out, however that is."""
    command = [sys.executable, "-I", "-c", _TAKER, str(_NOBODY), *ports]
    taker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert taker.stdout is not None
        if taker.stdout.readline() != "ready\n":
            raise PlatformError("the drill of the ports could not become another user of the machine")
        yield taker
    finally:
        taker.kill()
        taker.wait()
