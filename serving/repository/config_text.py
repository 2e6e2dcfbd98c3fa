"""Change single fields in the text of a configuration; comments, order and layout of all the others stay.

The text is cut into its fields, and only those whose value changes are written again, inside blocks too: of a map by
its keys, of a list of blocks by their places. The result is parsed with Triton's own messages and compared: where it
does not say what it should, the text is given up, not patched.
The syntax is that of the protobuf text format, https://protobuf.dev/reference/protobuf/textformat-spec/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import Message

from ...errors import ConfigError
from .model_config import ModelConfig, parse_config

__all__ = ["edited_text", "lost_comments"]

_SPACE = re.compile(r"(?:\s|#[^\n]*(?:\n|$))*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_STRING = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'")
_SCALAR = re.compile(r"-?\s*[^\s,;#{}<>\[\]\"']+")
_OPEN, _CLOSE = "{<[", "}>]"
_COMMENT = re.compile(rf"{_STRING.pattern}|#[^\n]*")
_OPENING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\s*:?\s*[{<]")
"""The beginning of a field that is one block; a list in brackets is none."""

Span = tuple[str, int, int]


def edited_text(text: str, config: ModelConfig, place: Path) -> str | None:
    """`text` changed to say `config`; None where that would lose something. `place` names the file in messages.

    Raises:
        ConfigError: `text` does not parse.
    """
    before = parse_config(text, place)
    result = _edited(text, before, config, "").rstrip("\n") + "\n"
    try:
        return result if parse_config(result, place) == config else None
    except ConfigError:
        return None


def lost_comments(text: str, edited: str) -> tuple[str, ...]:
    """The comments of `text` that are not in `edited`."""
    kept = set(_comments(edited))
    return tuple(comment for comment in _comments(text) if comment not in kept)


def _edited(text: str, before: Message, after: Message, indent: str) -> str:
    """The fields of a message as text, changed from `before` to `after`; lines of new fields begin with `indent`."""
    changed = {field.name: _printed(after, field.name) for field in after.DESCRIPTOR.fields}
    changed = {name: printed for name, printed in changed.items() if printed != _printed(before, name)}
    spans = list(_fields(text))
    inside = {name: _blocks(text, spans, name, before, after, indent) for name in changed}
    pieces, end, seen = [], 0, set[str]()
    for name, start, stop in spans:
        if name not in changed:
            continue
        blocks = inside[name]
        replaced = blocks.pop(0) if blocks else "" if name in seen else _indented(changed[name], indent)
        seen.add(name)
        pieces.append(text[end:start])
        end = stop
        if replaced:
            pieces.append(replaced)
        elif (line := re.compile(r"[ \t]*(?:\n|$)").match(text, stop)) and _begins_line(text, start):
            end = line.end()
    pieces.append(text[end:])
    absent = [_indented(printed, indent) for name, printed in changed.items() if printed and name not in seen]
    body = "".join(pieces)
    if not absent:
        return body
    tail = body[len(body.rstrip()) :] if indent else "\n"
    return body.rstrip() + "".join(f"\n{indent}{one}" for one in absent) + (tail if "\n" in tail else "\n" + indent[2:])


def _blocks(text: str, spans: Sequence[Span], name: str, before: Message, after: Message, indent: str) -> list[str]:
    """The new text of each span of a field of blocks, one block per span; empty where they are written again as one."""
    own = [text[start:stop] for field, start, stop in spans if field == name]
    field = after.DESCRIPTOR.fields_by_name[name]
    if field.message_type is None or not own or any(_OPENING.match(block) is None for block in own):
        return []
    old, new = getattr(before, name), getattr(after, name)
    if field.message_type.GetOptions().map_entry:
        return _entries(own, name, before, after, indent)
    if isinstance(old, Message):
        old, new = [old], [new] if after.HasField(name) else []
    if not len(own) == len(old) == len(new):
        return []
    return [_block(block, one, other, indent) for block, one, other in zip(own, old, new, strict=True)]


def _block(block: str, before: Message, after: Message, indent: str) -> str:
    """One block `name {...}`, changed inside."""
    if before == after:
        return block
    opening = _OPENING.match(block)
    closing = max(block.rfind(letter) for letter in _CLOSE)
    assert opening is not None
    inner = _edited(block[opening.end() : closing], before, after, f"{indent}  ")
    return block[: opening.end()] + inner + block[closing:]


def _entries(blocks: Sequence[str], name: str, before: Message, after: Message, indent: str) -> list[str]:
    """The blocks of a map, one key each: those of equal values stay, new keys follow the last."""
    wanted = dict(getattr(after, name))
    result = []
    for block in blocks:
        single = type(before)()
        text_format.Parse(block.rstrip(" \t,;"), single)
        (key,) = getattr(single, name)
        value = wanted.pop(key, None)
        same = value is not None and value == getattr(before, name)[key]
        result.append(block if same else "" if value is None else _entry(after, name, key, indent))
    added = [_entry(after, name, key, indent) for key in sorted(wanted)]
    result[-1] = f"\n{indent}".join(filter(None, (result[-1], *added)))
    return result


def _entry(message: Message, name: str, key: str, indent: str) -> str:
    single = type(message)()
    single.CopyFrom(message)
    for other in set(getattr(single, name)) - {key}:
        del getattr(single, name)[other]
    return _indented(_printed(single, name), indent)


def _indented(printed: str, indent: str) -> str:
    return printed.rstrip("\n").replace("\n", f"\n{indent}")


def _comments(text: str) -> list[str]:
    """The comments of a text, in its order; a # in a string begins none."""
    return [found.group().strip() for found in _COMMENT.finditer(text) if found.group()[0] == "#"]


def _begins_line(text: str, start: int) -> bool:
    return not text[text.rfind("\n", 0, start) + 1 : start].strip()


def _printed(config: Message, name: str) -> str:
    """One field as text; `max_batch_size: 0` too, which protobuf leaves out and readers look for."""
    single = type(config)()
    single.CopyFrom(config)
    for descriptor, _ in config.ListFields():
        if descriptor.name != name:
            single.ClearField(descriptor.name)
    text = str(text_format.MessageToString(single, use_short_repeated_primitives=True))
    return text if text or name != "max_batch_size" else "max_batch_size: 0\n"


def _fields(text: str) -> Iterator[Span]:
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
