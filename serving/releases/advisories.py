"""NVIDIA's security advisories of Triton, as data: which release fixes which fault, and what a release lacks.

From the bulletins in CSAF form of NVIDIA's product-security repository, read in November 2026; scores are CVSS v3 base
scores. For the two faults fixed in 26.07 the score was not at hand (None). The bulletin of December 2023 names server
2.40, which is release 23.11.

A new bulletin is a new entry here; a test then fails until `IMAGE` in `server/container.py` names a release that has
the fix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ADVISORIES", "EXEMPT", "Advisory", "lacking", "release_key", "what_it_lacks"]


@dataclass(frozen=True)
class Advisory:
    """One fault: its CVE number, CVSS v3 base score (None: not known here), and the release that fixes it."""

    cve: str
    score: float | None
    fixed: str

    def __str__(self) -> str:
        return f"{self.cve} ({'score not known' if self.score is None else self.score}, fixed in {self.fixed})"


_FIXES: Mapping[str, Mapping[str, float | None]] = {
    "23.11": {
        "CVE-2023-31036": 7.5,
    },
    "24.04": {
        "CVE-2024-0087": 9.0,
        "CVE-2024-0088": 5.5,
        "CVE-2024-0100": 6.5,
    },
    "24.05": {
        "CVE-2024-0095": 4.3,
        "CVE-2024-0103": 5.4,
    },
    "24.09": {
        "CVE-2024-0116": 4.9,
    },
    "24.12": {
        "CVE-2024-53880": 4.9,
    },
    "25.05": {
        "CVE-2025-23323": 7.5,
        "CVE-2025-23324": 7.5,
        "CVE-2025-23325": 7.5,
        "CVE-2025-23326": 7.5,
        "CVE-2025-23327": 7.5,
        "CVE-2025-23335": 4.4,
    },
    "25.06": {
        "CVE-2025-23322": 7.5,
        "CVE-2025-23331": 7.5,
    },
    "25.07": {
        "CVE-2025-23268": 8.0,
        "CVE-2025-23310": 9.8,
        "CVE-2025-23311": 9.8,
        "CVE-2025-23317": 9.1,
        "CVE-2025-23318": 8.1,
        "CVE-2025-23319": 8.1,
        "CVE-2025-23320": 7.5,
        "CVE-2025-23321": 7.5,
        "CVE-2025-23333": 5.9,
        "CVE-2025-23334": 5.9,
    },
    "25.08": {
        "CVE-2025-23316": 9.8,
        "CVE-2025-23328": 7.5,
        "CVE-2025-23329": 7.5,
        "CVE-2025-23336": 4.4,
    },
    "25.09": {
        "CVE-2025-33202": 7.5,
    },
    "25.10": {
        "CVE-2025-33201": 7.5,
        "CVE-2025-33211": 7.5,
    },
    "26.01": {
        "CVE-2025-33238": 7.5,
        "CVE-2025-33254": 7.5,
        "CVE-2026-24158": 7.5,
    },
    "26.02": {
        "CVE-2026-24146": 7.5,
        "CVE-2026-24147": 4.8,
        "CVE-2026-24173": 7.5,
        "CVE-2026-24174": 7.5,
        "CVE-2026-24175": 7.5,
    },
    "26.03": {
        "CVE-2026-24206": 7.3,
        "CVE-2026-24207": 9.8,
        "CVE-2026-24208": 5.3,
        "CVE-2026-24209": 7.5,
        "CVE-2026-24210": 7.5,
        "CVE-2026-24213": 8.0,
        "CVE-2026-24214": 8.0,
        "CVE-2026-24215": 5.7,
        "CVE-2026-47487": 4.4,
    },
    "26.04": {
        "CVE-2026-24264": 7.5,
        "CVE-2026-24266": 5.9,
    },
    "26.05": {
        "CVE-2026-47476": 7.5,
        "CVE-2026-47477": 7.5,
        "CVE-2026-47478": 7.5,
        "CVE-2026-47479": 7.5,
        "CVE-2026-47480": 7.5,
        "CVE-2026-47481": 6.5,
        "CVE-2026-47482": 7.5,
    },
    "26.06": {
        "CVE-2026-47606": 6.5,
        "CVE-2026-47627": 9.8,
        "CVE-2026-47628": 7.5,
        "CVE-2026-47629": 7.5,
        "CVE-2026-47630": 5.5,
    },
    "26.07": {
        "CVE-2026-16497": None,
        "CVE-2026-47625": None,
    },
}

ADVISORIES = tuple(Advisory(cve, score, release) for release, faults in _FIXES.items() for cve, score in faults.items())
"""Every advisory, by the release that fixes it."""

EXEMPT = {"24.10": "embedded: on 127.0.0.1 only, control closed by a key, started again after a crash"}
"""Releases that rtool runs although they lack fixes -> why, and under what conditions."""

_NAMED = 3


def release_key(release: str) -> tuple[int, int]:
    """(year, month) of a release such as "24.10".

    Raises:
        ValueError: another form.
    """
    year, _, month = release.partition(".")
    if not (len(year) == len(month) == 2 and (year + month).isdecimal()):
        raise ValueError(f"{release!r}: expected a release such as 24.10")
    return int(year), int(month)


def lacking(release: str) -> tuple[Advisory, ...]:
    """The advisories that `release` has no fix for, the highest score first; a fault without a score counts as 10.

    Raises:
        ValueError: `release` is not one such as "24.10".
    """
    own = release_key(release)
    found = [advisory for advisory in ADVISORIES if release_key(advisory.fixed) > own]
    return tuple(sorted(found, key=lambda one: (-(10.0 if one.score is None else one.score), one.cve)))


def what_it_lacks(release: str, *, whole: bool = False) -> str:
    """One sentence on the fixes that `release` lacks, empty when it lacks none; `whole` names every fault.

    Raises:
        ValueError: `release` is not one such as "24.10".
    """
    faults = lacking(release)
    if not faults:
        return ""
    scored = [fault for fault in faults if fault.score is not None]
    named = faults if whole else scored[:_NAMED]
    others = f" and {len(faults) - len(named)} more" if len(faults) > len(named) else ""
    newest = max((fault.fixed for fault in faults), key=release_key)
    listed = ", ".join(map(str, named))
    return f"Triton {release} lacks {len(faults)} security fixes: {listed}{others}; {newest} has them all"
