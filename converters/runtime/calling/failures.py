"""Why a served model gave no answer: one class per cause, so that callers can tell a full server from a wrong input.

`transient` says whether the same request may succeed a little later; clients retry those within their deadline.
"""

from __future__ import annotations

from ....errors import InputError, PlatformError

__all__ = [
    "BackendFailedError",
    "BadRequestError",
    "ControlDeniedError",
    "RequestTimeoutError",
    "ServerOverloadedError",
    "ServerStoppingError",
    "ServerUnreachableError",
    "ServingError",
    "UnknownModelError",
]


class ServingError(PlatformError):
    """The server's side of a failed request; the request itself may be right."""

    transient = False


class ServerUnreachableError(ServingError):
    """Nothing answers at the address: no server, or one that has ended and may be started again."""

    transient = True


class ServerStoppingError(ServingError):
    """The server answers, but is not ready: it stops, starts, or loads the model."""

    transient = True


class ServerOverloadedError(ServingError):
    """The server and the model are ready, and the request was turned away: its queue is full, or it waited too long."""

    transient = True


class BackendFailedError(ServingError):
    """The model failed while it ran: the process that runs it died, or it ran out of memory."""

    def __init__(self, message: str, *, transient: bool) -> None:
        super().__init__(message)
        self.transient = transient


class RequestTimeoutError(ServingError):
    """No answer within the deadline of the request."""


class ControlDeniedError(ServingError):
    """The server restricts this call to those who have its key."""


class UnknownModelError(InputError):
    """The server is ready and does not serve this model, or not this version."""


class BadRequestError(InputError):
    """The server understood the request and refuses it: a wrong name, dtype, shape or number of rows."""
