"""Change single fields in the text of a configuration; comments, order and layout of all the others stay.

The text is cut into its top-level fields, and only those whose value changes are written again. The result is parsed
with Triton's own messages and compared: where it does not say what it should, the text is given up, not patched.
The syntax is that of the protobuf text format, https://protobuf.dev/reference/protobuf/textformat-spec/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import ConfigError
from .model_config import ModelConfig, parse_config

__all__ = ["edited_text"]

_SPACE = re.compile(r"(?:\s|#[^\n]*(?:\n|$))*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_STRING = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'")
_SCALAR = re.compile(r"-?\s*[^\s,;#{}<>\[\]\"']+")
_OPEN, _CLOSE = "{<[", "}>]"


def edited_text(text: str, config: ModelConfig, place: Path) -> str | None:
    """`text` changed to say `config`; None where that would lose something. `place` names the file in messages.

    Raises:
        ConfigError: `text` does not parse.
    """
    before = parse_config(text, place)
    changed = {field.name: _printed(config, field.name) for field in config.DESCRIPTOR.fields}
    changed = {name: printed for name, printed in changed.items() if printed != _printed(before, name)}
    spans = list(_fields(text))
    pieces, end = [], 0
    for name, start, stop in spans:
        if name not in changed:
            continue
        printed = changed[name]
        first = next(span for span in spans if span[0] == name) == (name, start, stop)
        pieces.append(text[end:start])
        end = stop
        if first and printed:
            pieces.append(printed.rstrip("\n"))
        elif (line := re.compile(r"[ \t]*(?:\n|$)").match(text, stop)) and _begins_line(text, start):
            end = line.end()
    pieces.append(text[end:])
    absent = [printed for name, printed in changed.items() if printed and name not in {span[0] for span in spans}]
    result = "".join(pieces).rstrip("\n") + "\n" + "".join(absent)
    try:
        return result if parse_config(result, place) == config else None
    except ConfigError:
        return None


def _begins_line(text: str, start: int) -> bool:
    return not text[text.rfind("\n", 0, start) + 1 : start].strip()


def _printed(config: ModelConfig, name: str) -> str:
    """One field as text; `max_batch_size: 0` too, which protobuf leaves out and readers look for."""
    from google.protobuf import text_format

    single = type(config)()
    single.CopyFrom(config)
    for descriptor, _ in config.ListFields():
        if descriptor.name != name:
            single.ClearField(descriptor.name)
    text = str(text_format.MessageToString(single, use_short_repeated_primitives=True))
    return text if text or name != "max_batch_size" else "max_batch_size: 0\n"


def _fields(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of every top-level field; stops at what it does not understand."""
    position = _space(text, 0)
    while (name := _NAME.match(text, position)) is not None:
        stop = _value_end(text, name.end())
        if stop is None:
            return
        separator = re.compile(r"\s*[,;]").match(text, stop)
        stop = separator.end() if separator else stop
        yield name.group(), position, stop
        position = _space(text, stop)


def _value_end(text: str, position: int) -> int | None:
    position = _space(text, position)
    if text[position : position + 1] == ":":
        position = _space(text, position + 1)
    if text[position : position + 1] and text[position] in _OPEN:
        return _bracket_end(text, position)
    if _STRING.match(text, position):
        end = position
        while (string := _STRING.match(text, _space(text, position))) is not None:  # adjacent ones are one value
            position = end = string.end()
        return end
    scalar = _SCALAR.match(text, position)
    return scalar.end() if scalar else None


def _bracket_end(text: str, position: int) -> int | None:
    depth = 0
    while position < len(text):
        position = _space(text, position)
        if (string := _STRING.match(text, position)) is not None:
            position = string.end()
            continue
        letter = text[position : position + 1]
        depth += (letter in _OPEN) - (letter in _CLOSE) if letter else 0
        position += 1
        if depth == 0:
            return position
    return None


def _space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position
