"""Which release a server is, by the version that it states of itself: 2.51.0 is release 24.10.

One minor version per month since 2.40 (23.11), except that 25.06 and 25.07 are 2.59.0 and 2.59.1. Source: the release
notes of NVIDIA's container images, 23.11 to 26.08.
"""

from __future__ import annotations

import re

__all__ = ["NEWEST_KNOWN", "release_of"]

_FIRST = (40, 23, 11)
_AFTER_THE_PAIR = (60, 25, 8)
_LAST = 72
NEWEST_KNOWN = "26.08"


def release_of(version: str) -> str | None:
    """The release of a server version such as "2.51.0"; None for one outside 2.40 to 2.72, or of another form."""
    found = re.match(r"2\.(\d+)(?:\.(\d+))?(?!\d)", version)
    if found is None or not _FIRST[0] <= int(found[1]) <= _LAST:
        return None
    minor = int(found[1])
    if minor == _AFTER_THE_PAIR[0] - 1 and found[2] == "1":
        return "25.07"
    start, year, month = _AFTER_THE_PAIR if minor >= _AFTER_THE_PAIR[0] else _FIRST
    months = year * 12 + month - 1 + minor - start
    return f"{months // 12}.{months % 12 + 1:02d}"
