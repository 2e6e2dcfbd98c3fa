"""Classes of generated code that take numbers: blocks that differ only in channels or strides share one.

The construction of a block is text with holes: every integer a layer is made with is a `Number`, also one that equals
its default and so is not written. Blocks whose text is equal but for the numbers form a `Group`. Once all are known, a
number that is the same for all of them is written into the class; the others become parameters of its `__init__`, one
for those that always go together or in the same ratio.
"""

from __future__ import annotations

import io
import tokenize
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, groupby, pairwise

from .constructors import Construction
from .text import split_marks

__all__ = ["Chain", "Group", "Number", "Part", "Use", "key_of", "layer_parts", "marked_parts", "numbers_of"]

_INPUTS = ("in_channels", "in_features")
_OUTPUTS = ("out_channels", "out_features")
_WIDTHS = (*_INPUTS, *_OUTPUTS, "num_features", "num_parameters", "num_channels", "groups", "shape")
"""Arguments that count channels, so that equal ones may be one parameter."""
_FREE = ("normalized_shape", "size")
"""Numbers that are channels where they always equal a number of channels."""
_PLAIN = ("stride", "kernel_size", "padding", "output_padding", "dilation", "scale", "shift")
"""Parameters that mean nothing as a multiple of another."""
_LARGEST_RATIO = 16
_LONGEST_LINE = 80
_WIDEST = 120
"""Characters of a line."""
_MANY = 3
"""Equal members in a row from which on they are written once."""
_LOOP = " for _ in range("


@dataclass(frozen=True)
class Number:
    """An integer a layer is made with, and the name of the argument."""

    name: str
    value: str
    lead: str = ""
    """What is written before it, if it is."""
    default: str = ""
    """The value that need not be written."""


@dataclass(frozen=True, eq=False)
class Use:
    """A block made from the class of its group; `numbers` are all those inside it, in order."""

    group: Group
    numbers: tuple[Number, ...]


@dataclass(frozen=True)
class Chain:
    """`nn.Sequential` or `nn.ModuleList` (or the argument of `super().__init__`) of what the items make."""

    items: tuple[tuple[Part, ...], ...]
    kind: str = "nn.Sequential"


Part = str | Number | Use | Chain


@dataclass(frozen=True)
class _Value:
    """A parameter of a class, or a multiple or a fraction of it: `name`, `4 * name`, `name // 4`."""

    name: str
    before: str = ""
    behind: str = ""

    def text(self, owner: str = "") -> str:
        return f"{self.before}{owner}{self.name}{self.behind}"


@dataclass(eq=False)
class Group:
    """A class to be: its name and base, the statements of `__init__` as its first block has them, and `forward`."""

    name: str
    base: str
    construction: Sequence[tuple[Part, ...]]
    method: Sequence[tuple[Part, ...]]
    """Lines, not indented; none where the class only holds members."""
    members: frozenset[str] = frozenset()
    """Names that are attributes already."""
    uses: list[tuple[Number, ...]] = field(default_factory=list)
    """The numbers of every block of the group, those of `construction` before those of `method`."""
    _known: tuple[int, list[tuple[str, int]], dict[int, _Value]] = field(default=(0, [], {}), init=False, repr=False)
    """For how many blocks the parameters were worked out, and what they are: every block asks for them."""

    def definition(self) -> str:
        """The text of the class."""
        parameters, values = self._parameters()
        built = sum(1 for parts in self.construction for _ in numbers_of(parts))
        texts = [number.value for number in self.uses[0]]
        for column, value in values.items():
            texts[column] = value.text("" if column < built else "self.")
        numbers = iter(texts)
        first, *lines = [wrapped(render(parts, numbers, 8), 8) for parts in self.construction]
        used = {value.name for column, value in values.items() if column >= built}
        kept = [f"self.{name} = {name}" for name, _ in parameters if name in used]
        method = [wrapped(render(parts, numbers), 4) for parts in self.method]
        arguments = [
            f"{name}: {'float' if '.' in self.uses[0][column].value else 'int'}" for name, column in parameters
        ]
        body = [*_signature(arguments), *(f"        {line}" for line in (first, *kept, *lines))]
        return "\n".join(
            [f"class {self.name}({self.base}):", *body, *([""] if method else []), *(f"    {line}" for line in method)]
        )

    def call(self, values: Sequence[str]) -> str:
        """The expression that makes a block with these values for its numbers; other than widths are named."""
        arguments: list[str] = []
        for name, column in self._parameters()[0]:
            is_width = self.uses[0][column].name in _WIDTHS
            is_plain = is_width and len(arguments) < 3 and not any("=" in argument for argument in arguments)
            arguments.append(values[column] if is_plain else f"{name}={values[column]}")
        return f"{self.name}({', '.join(arguments)})"

    def _parameters(self) -> tuple[list[tuple[str, int]], dict[int, _Value]]:
        """Parameters with the first column that each stands for, widths first, and what every such column is."""
        if self._known[0] != len(self.uses):
            self._known = (len(self.uses), *self._worked_out())
        return self._known[1:]

    def _worked_out(self) -> tuple[list[tuple[str, int]], dict[int, _Value]]:
        varying = {
            index: (self.uses[0][index].name, values)
            for index, values in enumerate(zip(*([n.value for n in numbers] for numbers in self.uses), strict=True))
            if len(set(values)) > 1
        }
        layers = {values for name, values in varying.values() if name in _WIDTHS}
        widths: dict[tuple[str, ...], list[int]] = {
            values: [] for name, values in varying.values() if name in (*_INPUTS, *_OUTPUTS)
        }
        others: dict[tuple[str, ...], list[int]] = {}
        for column, (name, values) in varying.items():
            if name in _WIDTHS or (values in layers and name in _FREE):
                widths.setdefault(values, []).append(column)
            else:
                others.setdefault((name, *values), []).append(column)
        wanted = [(self._width_name(columns), values, columns) for values, columns in widths.items()]
        wanted += [(key[0], key[1:], columns) for key, columns in others.items()]
        bases: dict[tuple[str, ...], int] = {}
        derived: list[tuple[int, str, str, list[int]]] = []
        kept: list[tuple[str, list[int]]] = []
        for name, values, columns in wanted:
            found = _ratio(values, bases) if name not in _PLAIN else None
            if found is not None:
                derived.append((*found, columns))
                continue
            if all(value.isdigit() for value in values):
                bases[values] = len(kept)
            kept.append((name, columns))
        names = _distinct([name for name, _ in kept], self.members)
        texts = {column: _Value(name) for name, (_, columns) in zip(names, kept, strict=True) for column in columns}
        for base, before, behind, columns in derived:
            texts.update(dict.fromkeys(columns, _Value(names[base], before, behind)))
        shown = ([c for c in columns if varying[c][0] in _WIDTHS] or columns for _, columns in kept)
        return [(name, columns[0]) for name, columns in zip(names, shown, strict=True)], texts

    def _width_name(self, columns: Sequence[int]) -> str:
        """What a width is called: from the first layers that take or give it to the last."""
        names = [self.uses[0][column].name for column in columns]
        ends = [name for name in names if name in (*_INPUTS, *_OUTPUTS)]
        if not ends:
            return {frozenset({"groups"}): "groups", frozenset({"shape"}): "size"}.get(frozenset(names), "channels")
        what = ends[0].partition("_")[2]
        comes_in, goes_out = ends[0] in _INPUTS or names[0] == "num_features", ends[-1] in _OUTPUTS
        if comes_in:
            return what if goes_out else f"in_{what}"
        return f"out_{what}" if goes_out else f"hidden_{what}"


def _ratio(values: Sequence[str], bases: Mapping[tuple[str, ...], int]) -> tuple[int, str, str] | None:
    """Which parameter `values` are the same multiple or fraction of in every block, and the text around it."""
    if not all(value.isdigit() and int(value) for value in values):
        return None
    for base, index in bases.items():
        pairs = [(int(value), int(of)) for value, of in zip(values, base, strict=True)]
        for factor in range(2, _LARGEST_RATIO + 1):
            if all(value == factor * of for value, of in pairs):
                return index, f"{factor} * ", ""
            if all(value * factor == of for value, of in pairs):
                return index, "", f" // {factor}"
    return None


def _signature(parameters: Sequence[str]) -> list[str]:
    """The lines of the head of `__init__`, indented."""
    arguments = ", ".join(["self", *parameters])
    line = f"    def __init__({arguments}) -> None:"
    return [line] if len(line) <= 120 else ["    def __init__(", f"        {arguments}", "    ) -> None:"]


def _distinct(names: Sequence[str], taken: Collection[str]) -> list[str]:
    """`names` with a number behind those that are there already."""
    found: list[str] = []
    for name in names:
        candidates = chain([name], (f"{name}{number}" for number in count(2)))
        found.append(next(name for name in candidates if name not in found and name not in taken))
    return found


def marked_parts(text: str) -> tuple[Part, ...]:
    """Text of an expression with its marked numbers as numbers."""
    pieces = split_marks(text)
    return tuple(piece if isinstance(piece, str) else Number(*piece) for piece in pieces)


def layer_parts(made: Construction) -> tuple[Part, ...]:
    """The constructor call of a layer with its integers as numbers."""
    parts: list[Part] = [f"{made.type}("]
    for argument in made.arguments:
        comma = ", " if len(parts) > 1 else ""
        lead = f"{comma}{argument.name}=" if argument.is_named else comma
        if argument.is_integer:
            parts.append(Number(argument.name, argument.text, lead, argument.default))
        elif argument.text != argument.default:
            parts.append(f"{lead}{argument.text}")
    return (*parts, ")")


def numbers_of(parts: Sequence[Part]) -> Iterator[Number]:
    """All numbers, in the order they are written."""
    for part in parts:
        if isinstance(part, Number):
            yield part
        elif isinstance(part, Use):
            yield from part.numbers
        elif isinstance(part, Chain):
            for item in part.items:
                yield from numbers_of(item)


def key_of(parts: Sequence[Part]) -> Hashable:
    """Equal for two pieces of text that differ in their numbers only."""
    return tuple(_key(part) for part in parts)


def _key(part: Part) -> Hashable:
    if isinstance(part, Number):
        return ("number", part.lead, part.name)
    if isinstance(part, Use):
        return ("use", part.group.name)
    if isinstance(part, Chain):
        return (part.kind, *(key_of(item) for item in part.items))
    return part


def render(parts: Sequence[Part], values: Iterator[str], indent: int = 0) -> str:
    """The text, with the next of `values` for every number; further lines are indented."""
    return "".join(_rendered(part, values, indent) for part in parts)


def _rendered(part: Part, values: Iterator[str], indent: int) -> str:
    if isinstance(part, Number):
        value = next(values)
        return "" if value == part.default else f"{part.lead}{value}"
    if isinstance(part, Use):
        return part.group.call([next(values) for _ in part.numbers])
    if isinstance(part, Chain):
        return _chain(part.kind, [render(item, values, indent + 4) for item in part.items], indent)
    return part


def wrapped(line: str, indent: int) -> str:
    """`line`, which is to be indented by `indent`, over several lines where it is too long."""
    start = len(line) - len(line.lstrip())
    if "\n" in line or indent + len(line) < _WIDEST or not line.endswith((")", "),")):
        return line
    line, comma = line.removesuffix(","), "," * line.endswith(",")
    first = _opening(line)
    pad = " " * (indent + start)
    whole = line[first + 1 : -1]
    item, loop, times = whole.rpartition(_LOOP)
    if indent + start + 4 + len(whole) < _WIDEST:
        lines = [f"    {whole}"]
    elif loop and len(_arguments(whole)) == 1:  # a comma behind a comprehension that stands alone is a syntax error
        lines = [wrapped(f"    {item}", indent + start), f"    {loop.strip()}{times}"]
    else:
        lines = [wrapped(f"    {part},", indent + start) for part in _arguments(whole)]
    inner = f"\n{pad}".join(lines)
    return f"{line[: first + 1]}\n{pad}{inner}\n{pad}){comma}"


def _opening(line: str) -> int:
    """Where the bracket opens that the last character of `line` closes; strings may hold brackets."""
    opened: list[int] = []
    last = -1
    for token in tokenize.generate_tokens(io.StringIO(line.strip()).readline):
        if token.string in ("(", "[", "{"):
            opened.append(token.start[1])
        elif token.string in (")", "]", "}"):
            last = opened.pop()
    return last + len(line) - len(line.lstrip())


def _arguments(text: str) -> list[str]:
    """The arguments of a call, parted at the commas that lie in no bracket and no string."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    ends, depth = [-1], 0
    for token in tokens:
        depth += (token.string in ("(", "[", "{")) - (token.string in (")", "]", "}"))
        if token.string == "," and depth == 0:
            ends.append(token.start[1])
    return [text[start + 1 : end].strip() for start, end in pairwise([*ends, len(text)])]


def _chain(kind: str, items: Sequence[str], indent: int) -> str:
    """A list of modules; equal ones in a row are made by a comprehension."""
    runs = [(text, len(list(group))) for text, group in groupby(items)]
    is_sequential = kind == "nn.Sequential"
    start, end = (f"{kind}(", ")") if is_sequential else (f"{kind}([", "])")
    if len(runs) == 1 and runs[0][1] >= _MANY:
        text, times = runs[0]
        inner = f"({text}{_LOOP}{times}))"
        return f"{kind}(*{inner})" if is_sequential else f"{kind}{inner}"
    written: list[str] = []
    for text, times in runs:
        written += [f"*({text}{_LOOP}{times}))"] if times >= _MANY else [text] * times
    joined = ", ".join(written)
    if len(joined) <= _LONGEST_LINE and "\n" not in joined:
        return f"{start}{joined}{end}"
    pad = " " * indent
    lines = [wrapped(text, indent + 4) for text in written]
    return f"{start}\n" + "".join(f"{pad}    {text},\n" for text in lines) + f"{pad}{end}"
