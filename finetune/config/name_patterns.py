"""The patterns by which a configuration names parts of a network: `conv1*`, `layer4`, `*.bias`.

A pattern, with the wildcards of file names, matches parameters, or modules and with them everything below.
`model.freeze`, `model.weights_may_lack` and `optimizer.lr_multipliers` use them.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from ...errors import ConfigError, nearest

__all__ = ["check_patterns", "matches"]


def matches(name: str, pattern: str) -> bool:
    """Whether `pattern` matches the tensor `name` or a module that it is in."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:length]), pattern) for length in range(1, len(parts) + 1))


def check_patterns(field: str, patterns: Iterable[str], names: Iterable[str]) -> None:
    """Refuse patterns that match none of `names`.

    Raises:
        ConfigError: naming the field of the configuration, the pattern and near names.
    """
    known = list(names)
    for pattern in patterns:
        if not any(matches(name, pattern) for name in known):
            raise ConfigError(f"{field}: '{pattern}' matches no parameter; {nearest(pattern, known)}")
