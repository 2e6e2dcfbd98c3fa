"""Keeps a server serving: starts it again when it ends by itself, and a model again when its stub dies.

A request of 200 kB of `[` ends every Triton before April 2026, the embedded one too, by a stack overflow in its JSON
parser, so that a server without a supervisor can be ended by anybody who can reach it. So do clients that give up, one
time in some 30,000, before 24.12 and 25.03 (server issues 7368 and 8034). Restarts wait longer and longer (1, 2, 4, 8,
10 s) until the server has stayed up for a minute. Meanwhile health answers nothing or "not ready", and everything is
said through `say`.

A model with a dead stub is unloaded and loaded again, which keeps the others serving; under a control that allows no
loading, the server is started again.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress

from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from ...converters.runtime.calling.access_key import grpc_headers
from ..publishing.on_server.leftovers import sweep
from .ports import HOST
from .remains import unregister_abandoned
from .server import TritonServer
from .stubs import StubWatch

__all__ = ["LONGEST_PAUSE", "Supervisor"]

_POLL_SECONDS = 0.2
_SWEEP_SECONDS = 5.0
LONGEST_PAUSE = 10.0
"""Seconds, at most, before a server that fails again and again is started once more: one that starts serves in 15 s."""
_STEADY_SECONDS = 60.0
_LOAD_SECONDS = 120.0
_LOG_BYTES = 64 * 2**20
_REPLACED_SECONDS = 30.0
"""For the requests that the stubs of an unloaded model still answer; as long as Triton gives them when it ends."""


class Supervisor:
    """Watches a started server; `say` gets one line per event. `restarts` and `reloads` count what was mended."""

    def __init__(self, server: TritonServer, say: Callable[[str], None]) -> None:
        self.server = server
        self.restarts = 0
        self.reloads = 0
        self._tell = say
        self._failures = 0
        self._begun = self._swept = time.monotonic()
        self._stubs = StubWatch(server.process.pid, server.served_path)

    def watch(self) -> None:
        """Watch until KeyboardInterrupt. An error of a look is said, once while it stays the same, and looked past.

        Without its supervisor a server is lost: with this process end the sockets that keep its ports from others.
        """
        failed = ""
        while True:
            try:
                self.look()
                self.tidy()
                failed = ""
            except Exception as error:
                if (said := f"{type(error).__name__}: {error}") != failed:
                    failed = said
                    self._say(f"the supervisor goes on after an error: {said}")
            time.sleep(_POLL_SECONDS)

    def tidy(self) -> None:
        """Every few seconds, remove what clients and publishers left that were killed, and keep the log small."""
        if time.monotonic() - self._swept < _SWEEP_SECONDS:
            return
        self._swept = time.monotonic()
        self.server.process.bound_log(_LOG_BYTES)
        if self.server.control == "explicit" and (removed := sweep(self.server.repository, self.server.url)):
            self._say(f"removed what a publisher that was killed left: {', '.join(removed)}")
        with suppress(InferenceServerException):  # it is asked again
            unregister_abandoned(self.server.url)

    def look(self) -> None:
        """Look once at the server and its stubs, and mend what has died; returns when it serves again."""
        code = self.server.process.exit_code()
        if code is not None:
            self._say(f"Triton ended by itself: {self._why(code)}")
            self._restart()
            return
        if ended := self._stubs.end_replaced(_REPLACED_SECONDS):
            self._say(f"ended {ended} process{'es' if ended > 1 else ''} of a model that was started again")
        if dead := self._stubs.deaths():
            known = ", ".join(filter(None, dead)) or "a model"
            self._say(f"the process that runs {known} died; starting it again")
            if "" in dead or self.server.control != "explicit" or not all(self._reload(model) for model in dead):
                self._restart()

    def _restart(self) -> None:
        """Start the server again on its ports, however often it takes."""
        asked = self.server.asked_ports[2]
        metrics = f"{HOST}:{asked}" if asked else self.server.metrics_url
        if time.monotonic() - self._begun > _STEADY_SECONDS:
            self._failures = 0
        while True:
            if self._failures:
                pause = min(2.0 ** (self._failures - 1), LONGEST_PAUSE)
                self._say(f"starting Triton again in {pause:g} s")
                time.sleep(pause)
            self._failures += 1
            try:
                self.server.restart()
            except Exception as error:  # a full disk too: whatever it is, it may pass
                self._say(f"Triton could not be started again: {error}")
                continue
            self.restarts += 1
            self._begun = time.monotonic()
            self._stubs = StubWatch(self.server.process.pid, self.server.served_path)
            self._say(f"Triton serves again after {self.server.ready_seconds:.1f} s (restart {self.restarts})")
            if self.server.metrics_url.endswith(":0"):
                self._say("it serves without metrics until its next start: other programs take their port")
            elif self.server.metrics_url != metrics:
                self._say(f"its metrics moved to {self.server.metrics_url}: another program took {metrics}")
            return

    def _reload(self, model: str) -> bool:
        url = self.server.url
        self._stubs.replace(model)
        with triton.InferenceServerClient(url) as client:
            try:
                client.unload_model(model, headers=grpc_headers(url), client_timeout=_LOAD_SECONDS)
                client.load_model(model, headers=grpc_headers(url), client_timeout=_LOAD_SECONDS)
            except InferenceServerException as error:
                self._say(f"{model} could not be loaded again ({error.message()}); starting Triton again")
                return False
        self._stubs.note()  # should one of the new ones end before the next look
        self.reloads += 1
        self._say(f"{model} serves again")
        return True

    def _say(self, line: str) -> None:
        with suppress(Exception):  # a terminal that is gone, a full disk: the server matters more
            self._tell(line)

    def _why(self, code: int) -> str:
        try:
            if code >= 0:
                return f"exit code {code}; the end of its log:\n{self.server.process.tail()}"
            return f"signal {-code} ({signal.Signals(-code).name})"
        except (OSError, ValueError) as error:  # a log that is gone, a signal without a name
            return f"exit code {code} ({error})"
