"""Finds the cause of a failed call by its gRPC status and, where one status has several causes, the server's state.

What Triton answers, tried on 2.51: INVALID_ARGUMENT for a bad request; NOT_FOUND for an unknown model, and also for a
known one while it is unloaded or the server stops; UNAVAILABLE when nothing answers, when a queue is full or a request
waited too long in it, and for a restricted call; INTERNAL when the process of a Python model died, and for errors of
C++ back ends. Messages are shown, never compared: they change from release to release.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....errors import RtoolError, nearest
from .access_key import grpc_headers
from .failures import (
    BackendFailedError,
    BadRequestError,
    ControlDeniedError,
    RequestTimeoutError,
    ServerOverloadedError,
    ServerStoppingError,
    ServerUnreachableError,
    UnknownModelError,
)

if TYPE_CHECKING:
    from tritonclient.utils import InferenceServerException

__all__ = ["Call"]

_PROBE_SECONDS = 2.0
_REQUEST = frozenset({"INVALID_ARGUMENT", "OUT_OF_RANGE", "ALREADY_EXISTS", "FAILED_PRECONDITION"})


@dataclass(frozen=True)
class Call:
    """Calls about one model: `client` is tritonclient's gRPC client; `timeout` in seconds is named in messages."""

    client: Any
    url: str
    model: str
    version: str = ""
    timeout: float = 30.0
    control: bool = False
    """Whether the call is one of those that a server may restrict to its key: load, unload, index."""

    @property
    def place(self) -> str:
        """How messages begin."""
        version = f" version {self.version}" if self.version else ""
        return f"model {self.model!r}{version} on {self.url}"

    def cause(self, error: InferenceServerException) -> RtoolError:
        """The cause of `error`; asks the server for its state where the status does not tell. Never raises."""
        status = str(error.status() or "").removeprefix("StatusCode.")
        message = error.message()
        if status in _REQUEST:
            return BadRequestError(f"{self.place}: {message}")
        if status in ("DEADLINE_EXCEEDED", "CANCELLED"):
            return RequestTimeoutError(
                f"{self.place}: no answer within {self.timeout:g} s; check its load, or raise the timeout"
            )
        if status == "UNIMPLEMENTED":
            return BadRequestError(f"{self.place}: no Triton answers there ({message}); is it the gRPC port?")
        if status in ("INTERNAL", "UNKNOWN", "DATA_LOSS", "ABORTED"):
            # Back ends of rtool answer UNKNOWN when the model itself fails, so that INTERNAL is a dead process, or a
            # C++ back end's failure: the server mends the first within seconds.
            return BackendFailedError(f"{self.place}: the model failed: {message}", transient=status == "INTERNAL")
        ready = self._server_ready()
        if ready is None:
            return ServerUnreachableError(f"{self.place}: the server does not answer; start one with `rtool serve`")
        if status == "UNAVAILABLE" and self.control:
            return ControlDeniedError(
                f"{self.place}: {message}. The server restricts this call to the user who started it on this machine; "
                "run the command as that user"
            )
        states = self._states()
        if self.model in states and not self._served(states) and "ING" in " ".join(states[self.model].values()):
            return ServerStoppingError(f"{self.place}: it is being loaded or unloaded")
        served = self._served(states)
        asked = states.get(self.model, {}).get(self.version, "")
        if self.version and served and self.version not in served and asked != "LOADING":
            return UnknownModelError(f"{self.place}: {message}{self._hint(states)}")
        if status == "UNAVAILABLE" and not ready and self._model_ready():
            # Another version or model is being unloaded, which Triton's strict readiness counts as not ready.
            return ServerOverloadedError(f"{self.place}: the server turned the request away: {message}")
        if not ready and (self.model in states or not states):
            return ServerStoppingError(f"{self.place}: the server is not ready: it stops, starts, or loads a model")
        if status == "NOT_FOUND" or not self._model_ready():
            return UnknownModelError(f"{self.place}: {message}{self._hint(states)}")
        return ServerOverloadedError(f"{self.place}: the server is overloaded and turned the request away: {message}")

    def _server_ready(self) -> bool | None:
        """Whether the server is ready; None when it does not answer."""
        from tritonclient.utils import InferenceServerException

        try:
            return bool(self.client.is_server_ready(client_timeout=_PROBE_SECONDS))
        except InferenceServerException:
            return None

    def _model_ready(self) -> bool:
        from tritonclient.utils import InferenceServerException

        try:
            return bool(self.client.is_model_ready(self.model, self.version, client_timeout=_PROBE_SECONDS))
        except InferenceServerException:
            return False

    def _states(self) -> dict[str, dict[str, str]]:
        """Model -> version -> state (READY, LOADING, ...), empty for those who may not ask."""
        from tritonclient.utils import InferenceServerException

        try:
            index = self.client.get_model_repository_index(
                headers=dict(grpc_headers(self.url)), client_timeout=_PROBE_SECONDS
            ).models
        except InferenceServerException:
            return {}
        found: dict[str, dict[str, str]] = {}
        for entry in index:
            found.setdefault(entry.name, {})[entry.version] = entry.state
        return found

    def _served(self, states: dict[str, dict[str, str]]) -> list[str]:
        """The versions of the model that are ready."""
        return [version for version, state in states.get(self.model, {}).items() if state == "READY"]

    def _hint(self, states: dict[str, dict[str, str]]) -> str:
        if not states:
            return ""
        if versions := self._served(states):
            return f"; versions ready: {', '.join(versions)}"
        ready = {name for name, versions in states.items() if "READY" in versions.values()}
        return f"; {nearest(self.model, ready)}" if ready else "; no model is ready"
