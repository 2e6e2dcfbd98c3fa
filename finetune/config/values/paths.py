"""`~` and `${VAR}` in the paths of a configuration.

Both are expanded when a configuration is read, so that a run's own file states the places it used. `$$` is a dollar
sign; `written` puts such signs back, so that a written configuration reads back as the same one.
"""

from __future__ import annotations

import os
import re

__all__ = ["expanded", "written"]

_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)\}|(\w+)|(\{))")


def expanded(text: str) -> str:
    """`text` with a leading `~` or `~user`, `$VAR` and `${VAR}` replaced, and `$$` as `$`.

    Raises:
        ValueError: a variable is not set, or empty, or there is no such user; with the way out.
    """
    home = os.path.expanduser(text) if text.startswith("~") else text
    if home.startswith("~"):
        user = home.partition("/")[0]
        raise ValueError(f"'{text}': no home folder is known for {user}; write the path in full, or ./{text}")

    def value(match: re.Match[str]) -> str:
        dollar, braced, bare, _ = match.groups()
        if dollar:
            return "$"
        name = braced or bare
        if name is None:
            raise ValueError(f"'{text}': ${{ opens no variable; write ${{NAME}}, or $$ for a dollar sign")
        found = os.environ.get(name)
        if not found:
            state = "not set" if found is None else "empty"
            raise ValueError(
                f"'{text}': the environment variable {name} is {state}; set it (export {name}=...), or write the path "
                "out; $$ is a dollar sign"
            )
        return found

    return _VARIABLE.sub(value, home)


def written(text: str) -> str:
    """An expanded text as a configuration writes it: read again, it names the same place."""
    escaped = text.replace("$", "$$")
    return f"./{escaped}" if escaped.startswith("~") else escaped
