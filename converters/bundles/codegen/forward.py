"""The body of `forward`: statements with short names, values that are used once written where they are used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, count

from torch import fx

from .blocks import Block, Call, Entry, inputs_of, results_of
from .text import Written, expression, length

__all__ = ["VARIABLES", "forward_method", "is_number"]

VARIABLES = ("x", "y", "z", "u", "v", "w")
_LONGEST = 92
"""Characters of an expression that others are written into."""
_DEEPEST = 3
"""Calls and operations nested in one expression."""
_NUMBERS = ("add", "sub", "mul", "floordiv", "mod", "int", "max", "min", "len")

Locate = Callable[[str], str]


def forward_method(block: Block, arguments: Sequence[str], locate: Locate) -> list[str]:
    """The lines of `forward`, not indented, numbers marked; `arguments` are the names of the block's inputs."""
    annotated = (_argument(name, node) for name, node in zip(arguments, block.inputs, strict=True))
    returned = [_annotation(node) for node in block.outputs]
    result = returned[0] if len(returned) == 1 else f"tuple[{', '.join(returned)}]"
    head = f"def forward({', '.join(['self', *annotated])}) -> {result}:"
    return [head, *(f"    {line}" for line in _body(block, arguments, locate))]


def _argument(name: str, node: fx.Node) -> str:
    """An argument of `forward`; an input that no node reads may be left out."""
    optional = node.op == "placeholder" and bool(node.args)
    return f"{name}: Tensor | None = None" if optional else f"{name}: {_annotation(node)}"


def _annotation(node: fx.Node) -> str:
    return "int" if is_number(node) else "Tensor"


def is_number(node: fx.Node) -> bool:
    """Whether the value is a Python number: a size of a tensor, or what is calculated from sizes."""
    if node.op == "call_method":
        return node.target == "size" and len(node.args) == 2
    name = getattr(node.target, "__name__", "")
    is_arithmetic = node.op == "call_function" and name in _NUMBERS and bool(node.all_input_nodes)
    return is_arithmetic and all(is_number(n) for n in node.all_input_nodes)


def _body(block: Block, arguments: Sequence[str], locate: Locate) -> list[str]:
    nested = _nested(block, locate)
    kept = [entry for entry in block.statements if not any(node in nested for node in results_of(entry))]
    names = _Names(block, arguments, kept, nested)
    lines = []
    for position, entry in enumerate(kept):
        value = _written(entry, names, nested, locate).text
        lines.append((names.assign(results_of(entry), position), value))
    returned = ", ".join(names[node].text for node in block.outputs)
    texts = [f"{', '.join(targets)} = {value}" for targets, value in lines]
    if lines and ", ".join(lines[-1][0]) == returned:
        return [*texts[:-1], f"return {lines[-1][1]}"]
    return [*texts, f"return {returned}"]


def _nested(block: Block, locate: Locate) -> dict[fx.Node, Entry]:
    """Values that are written where they are used, once, with the statements that make them."""
    uses = Counter(node for entry in block.statements for node in _mentions(entry))
    uses.update(block.outputs)
    makers = {results_of(entry)[0]: entry for entry in block.statements if len(results_of(entry)) == 1}
    nested: dict[fx.Node, Entry] = {
        node: entry for node, entry in makers.items() if node.op == "get_attr" and node not in block.outputs
    }
    short = Written("x")
    for entry in block.statements:
        chosen = [node for node in dict.fromkeys(inputs_of(entry)) if _is_for_one(node, uses) and node in makers]
        while chosen:
            trial = nested | {node: makers[node] for node in chosen}
            found = _written(entry, _Constant(short), trial, locate)
            if found.depth <= _DEEPEST and length(found.text) <= _LONGEST:
                break
            sizes = [_written(makers[node], _Constant(short), nested, locate) for node in chosen]
            worst = max(range(len(chosen)), key=lambda index: (sizes[index].depth, length(sizes[index].text)))
            chosen.pop(worst)
        nested.update({node: makers[node] for node in chosen})
    return nested


def _is_for_one(node: fx.Node, uses: Counter[fx.Node]) -> bool:
    return uses[node] == 1 and node.op != "get_attr"


def _mentions(entry: Entry) -> Sequence[fx.Node]:
    """The values that a statement names, as often as it does."""
    if isinstance(entry, Call):
        return entry.inputs
    found: list[fx.Node] = []
    fx.node.map_arg((entry.args, entry.kwargs), lambda node: found.append(node))
    return found


class _Constant(dict[fx.Node, Written]):
    """Gives every value the same name, to see how long an expression becomes."""

    def __init__(self, name: Written) -> None:
        super().__init__()
        self._name = name

    def __missing__(self, _: fx.Node) -> Written:
        return self._name


def _written(
    entry: Entry, names: Mapping[fx.Node, Written], nested: Mapping[fx.Node, Entry], locate: Locate
) -> Written:
    """The right-hand side of a statement."""
    inner = {
        node: _written(nested[node], names, nested, locate) if node in nested else names[node]
        for node in inputs_of(entry)
    }
    if isinstance(entry, Call):
        arguments = ", ".join(inner[node].text for node in entry.inputs)
        depth = 1 + max((written.depth for written in inner.values()), default=0)
        return Written(f"{locate(entry.block.path)}({arguments})", "", depth)
    return expression(entry, inner, locate)


class _Names(dict[fx.Node, Written]):
    """Variable names within one forward: `x` as long as only one value lives, then the next letters."""

    def __init__(
        self, block: Block, arguments: Sequence[str], kept: Sequence[Entry], nested: Mapping[fx.Node, Entry]
    ) -> None:
        super().__init__(zip(block.inputs, map(Written, arguments), strict=True))
        self._living = dict(zip(arguments, block.inputs, strict=True))
        self._last_use: dict[fx.Node, int] = dict.fromkeys(block.outputs, len(kept))
        for position, entry in enumerate(kept):
            for node in _needed(entry, nested):
                self._last_use[node] = max(position, self._last_use.get(node, 0))

    def assign(self, results: Sequence[fx.Node], position: int) -> list[str]:
        """Names for the results of the statement at `position`, avoiding all values needed later."""
        self._living = {name: node for name, node in self._living.items() if self._last_use.get(node, -1) > position}
        for node in results:
            names = chain(VARIABLES, (f"v{number}" for number in count()))
            name = next(name for name in names if name not in self._living)
            self[node] = Written(name)
            self._living[name] = node
        return [self[node].text for node in results]


def _needed(entry: Entry, nested: Mapping[fx.Node, Entry]) -> list[fx.Node]:
    """The variables that a statement with everything written into it reads."""
    found: list[fx.Node] = []
    for node in inputs_of(entry):
        found += _needed(nested[node], nested) if node in nested else [node]
    return found
