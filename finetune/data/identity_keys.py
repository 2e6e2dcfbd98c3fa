"""Whom a label of a data set names, decided in one place for every format.

Labels come as folder names, cells of tables and JSON values, and the same identity is written in several ways: with
spaces around it, as 3 and 3.0. A label that is empty, null or `nan` (a missing value of a table) names nobody; -1, or
any other negative number, marks junk in the field's data sets.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from enum import Enum

from ...errors import DataError

__all__ = ["NoIdentity", "identity_key", "left_out_notes", "too_few_identities"]

_EXPECTED = "expected an identity, text or a whole number, got {!r}"
_WHOLE = re.compile(r"([+-]?\d+)(?:\.0*)?")


class NoIdentity(Enum):
    """Why an image has no identity."""

    MISSING = "without a label"
    JUNK = "junk (a negative identity)"


def identity_key(label: object) -> str | NoIdentity:
    """The identity that a label names, as text that is equal for equal identities, or why there is none.

    Leading zeros stay: `0002` and `2` are two names.

    >>> [identity_key(label) for label in (3, 3.0, " 3.0", "alice ")]
    ['3', '3', '3', 'alice']

    Raises:
        ValueError: the label is neither text nor a whole number.
    """
    if label is None:
        return NoIdentity.MISSING
    if isinstance(label, bool) or not isinstance(label, str | int | float):
        raise ValueError(_EXPECTED.format(label))  # noqa: TRY004 - readers name the line of a ValueError
    if isinstance(label, float) and not label.is_integer():
        if label != label:
            return NoIdentity.MISSING
        raise ValueError(_EXPECTED.format(label))
    text = " ".join(f"{label:.0f}".split() if isinstance(label, float) else str(label).split())
    if text in ("", "nan"):
        return NoIdentity.MISSING
    number = _WHOLE.fullmatch(text)
    if number is None:
        return text
    return NoIdentity.JUNK if number[1].startswith("-") else number[1].removeprefix("+")


def left_out_notes(keys: Sequence[str | NoIdentity], names: Sequence[str]) -> tuple[str, ...]:
    """One line per reason: how many images have no identity, and the first of them by name."""
    counts = Counter(key for key in keys if isinstance(key, NoIdentity))
    first = {key: name for key, name in reversed(list(zip(keys, names, strict=True))) if key in counts}
    return tuple(f"{count} images {reason.value} left out, such as {first[reason]}" for reason, count in counts.items())


def too_few_identities(name: object, found: str, notes: Sequence[str] = ()) -> DataError:
    """The error for a data set of fewer than two identities: what was `found`, and what was left out of it."""
    left = f" ({'; '.join(notes)})" if notes else ""
    return DataError(f"{name}: {found}{left}; at least 2 are needed")
