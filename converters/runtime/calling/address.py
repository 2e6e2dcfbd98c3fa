"""host:port of a server's gRPC endpoint, checked before anything is sent."""

from __future__ import annotations

import re

from ....errors import InputError

__all__ = ["split_address"]

_HIGHEST_PORT = 65535


def split_address(url: str) -> tuple[str, int]:
    """Host and port of "host:port"; an IPv6 host stands in brackets.

    >>> split_address("127.0.0.1:8001")
    ('127.0.0.1', 8001)

    Raises:
        InputError: another form, or a port outside 1..65535.
    """
    found = re.fullmatch(r"([^\s/:]+|\[[0-9A-Fa-f:.]+\]):(\d{1,9})", url)
    if found is None:
        raise InputError(f"Triton URL {url!r}: expected host:port of the gRPC endpoint, e.g. 127.0.0.1:8001")
    host, port = found[1], int(found[2])
    if not 1 <= port <= _HIGHEST_PORT:
        raise InputError(f"Triton URL {url!r}: there is no port {port}; ports are numbers from 1 to {_HIGHEST_PORT}")
    return host, port
