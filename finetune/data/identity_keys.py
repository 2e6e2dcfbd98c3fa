"""Whom a label of a data set names, decided in one place for every format.

Labels come as folder names, cells of tables and JSON values, and the same identity is written in several ways: with
spaces around it, as 3 and 3.0, with an accented letter as one character or as two. A label that is empty or what
programs write for a missing value (null, None, nan, `<NA>`) names nobody; -1, or any other negative number, marks junk
in the field's data sets.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from enum import Enum

from ...errors import DataError

__all__ = ["NoIdentity", "few_odd_notes", "identity_key", "left_out_notes", "too_few_identities"]

_EXPECTED = "expected an identity, text or a whole number, got {!r}"
_MISSING = frozenset({"", "nan", "NaN", "NAN", "null", "NULL", "None", "<NA>"})
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
    text = " ".join((f"{label:.0f}" if isinstance(label, float) else unicodedata.normalize("NFC", str(label))).split())
    if text in _MISSING:
        return NoIdentity.MISSING
    number = _WHOLE.fullmatch(text)
    if number is None:
        return text
    return NoIdentity.JUNK if number[1].startswith("-") else number[1].removeprefix("+")


def left_out_notes(keys: Sequence[str | NoIdentity | None], names: Sequence[str]) -> tuple[str, ...]:
    """One line per reason: how many images have no identity, and the first by name; None is counted elsewhere."""
    counts = Counter(key for key in keys if isinstance(key, NoIdentity))
    first = {key: name for key, name in reversed(list(zip(keys, names, strict=True))) if key in counts}
    return tuple(f"{count} images {reason.value} left out, such as {first[reason]}" for reason, count in counts.items())


def few_odd_notes(where: object, odd: Sequence[str], total: int, which: str) -> tuple[str, ...]:
    """A line on the images among `total` that say no identity where the others do, none if there is no such image.

    A few are left out, whatever the format: covers, screenshots and notes lie beside images.

    Args:
        where: What messages name.
        odd: Names of these images.
        total: Number of all images.
        which: What they lack, as the rest of a sentence.

    Raises:
        DataError: half of the images or more are odd, so the data set has another layout than is expected.
    """
    if not odd:
        return ()
    if 2 * len(odd) >= total:
        raise DataError(f"{where}: {len(odd)} of {total} images {which}, such as {odd[0]}")
    return (f"{len(odd)} images left out that {which}, such as {odd[0]}",)


def too_few_identities(name: object, found: str, notes: Sequence[str] = ()) -> DataError:
    """The error for a data set of fewer than two identities: what was `found`, and what was left out of it."""
    left = f" ({'; '.join(notes)})" if notes else ""
    return DataError(f"{name}: {found}{left}; at least 2 are needed")
