"""The three loopback ports of a server: checked to be free before it starts, and kept while it is down.

Anybody on the machine can end the embedded server with one request (`supervision.py`), and could then listen where its
clients call: he would see their images and answer them. So the process that watches Triton keeps the HTTP and gRPC
ports bound, without listening, with SO_REUSEPORT: Linux lets only the same user bind them beside it (socket(7)).
Triton's metrics port cannot be kept; it carries nothing of a client.
"""

from __future__ import annotations

import errno
import socket

from ...errors import InputError, PlatformError

__all__ = ["HOST", "PORT_NAMES", "HeldPorts", "Ports", "choose_ports"]

Ports = tuple[int, int, int]
"""HTTP, gRPC, metrics."""

HOST = "127.0.0.1"
_HOST_6 = "::1"
PORT_NAMES = ("http", "grpc", "metrics")
_HIGHEST = 65535


def choose_ports(asked: Ports) -> Ports:
    """The requested ports, checked to be free, with a free port in place of every 0.

    Raises:
        InputError: a port number outside 0..65535, or the same number twice.
        PlatformError: a port is in use or may not be bound.
    """
    for name, port in zip(PORT_NAMES, asked, strict=True):
        if not 0 <= port <= _HIGHEST:
            raise InputError(f"{name} port {port}: ports are numbers from 1 to {_HIGHEST}, 0 selects a free one")
    fixed = [port for port in asked if port]
    if len(set(fixed)) != len(fixed):
        raise InputError(f"ports {', '.join(map(str, asked))}: expected three different numbers")
    sockets: list[socket.socket] = []
    try:
        for name, port in zip(PORT_NAMES, asked, strict=True):
            probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sockets.append(probe)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise PlatformError(f"{name} port {port} on {HOST}: {_why(name, error)}") from error
        http_port, grpc_port, metrics_port = (probe.getsockname()[1] for probe in sockets)
    finally:
        for probe in sockets:
            probe.close()
    return http_port, grpc_port, metrics_port


class HeldPorts:
    """The HTTP and gRPC ports of a server, kept for this user from `take` to `release`."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    @property
    def taken(self) -> bool:
        """Whether ports are kept."""
        return bool(self._sockets)

    def take(self, ports: Ports) -> None:
        """Keep the first two of `ports`.

        Raises:
            PlatformError: one was bound meanwhile.
        """
        for name, port in zip(PORT_NAMES[:2], ports, strict=False):
            self._keep(name, socket.AF_INET, HOST, port)
            if _has_loopback_6():
                self._keep(name, socket.AF_INET6, _HOST_6, port)  # which clients that call localhost may try first

    def _keep(self, name: str, family: socket.AddressFamily, host: str, port: int) -> None:
        kept = socket.socket(family, socket.SOCK_STREAM)
        self._sockets.append(kept)
        # Without SO_REUSEADDR, which would let another user's socket with it in as long as nobody listens.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            kept.bind((host, port))
        except OSError as error:
            self.release()
            raise PlatformError(f"{name} port {port} on {host}: {_why(name, error)}") from error

    def release(self) -> None:
        """Give the ports back."""
        while self._sockets:
            self._sockets.pop().close()


def _has_loopback_6() -> bool:
    """Whether this machine has IPv6 on its loopback interface."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind((_HOST_6, 0))
    except OSError:
        return False
    return True


def _why(name: str, error: OSError) -> str:
    another = f"choose another with --{name}-port (0 selects a free port)"
    if error.errno == errno.EADDRINUSE:
        return f"the port is in use; end the program that uses it, or {another}"
    return f"{error.strerror}; {another}"
