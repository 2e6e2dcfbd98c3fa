"""Turns blocks into classes: one for all blocks that differ in numbers only, plain chains into `nn.Sequential`."""

from __future__ import annotations

import keyword
import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from .blocks import Block, Call
from .constructors import construction_of
from .parameters import Chain, Group, Part, Use, key_of, layer_parts, numbers_of
from .text import expression, member

__all__ = ["ClassWriter"]

_ACTIVATIONS: dict[Any, str] = {
    F.gelu: "nn.GELU()",
    F.hardswish: "nn.Hardswish()",
    F.relu: "nn.ReLU()",
    F.relu6: "nn.ReLU6()",
    torch.sigmoid: "nn.Sigmoid()",
    torch.tanh: "nn.Tanh()",
}
_NAMES = ("x", "y", "z", "u", "v", "w")

Parts = tuple[Part, ...]


@dataclass(frozen=True)
class _Step:
    path: str
    """Of the member that is called; "" for an activation without weights."""
    inputs: list[fx.Node]
    made: Parts
    result: fx.Node


class ClassWriter:
    """Collects class definitions, innermost first."""

    def __init__(self, module: fx.GraphModule, taken: Iterable[str] = ()) -> None:
        """`taken` are names that the file defines before the classes."""
        self.module = module
        self.groups: dict[Hashable, Group] = {}
        """What a class reads like, numbers left out -> the class."""
        self._taken: set[str] = {"Model", "F", "List", "Tensor", *keyword.kwlist, *taken}

    def write(self, root: Block) -> str:
        """All classes that `root` needs, and `Model` itself."""
        model = self._group(root, [_argument(node) for node in root.inputs], "Model")
        return "\n\n\n".join([*(group.definition() for group in self.groups.values()), model.definition()])

    def _construct(self, block: Block) -> Parts:
        """The expression that makes a fresh module for `block`, in a class of its own when it needs one."""
        chain = self._chain(block)
        if chain is not None:
            return (chain,)
        made = self._group(block, _input_names(block), "")
        (numbers,) = made.uses
        key = (tuple(key_of(parts) for parts in made.construction), made.methods)
        if key not in self.groups:
            made.name = self._class_name(block)
            made.uses.clear()
            self.groups[key] = made
        self.groups[key].uses.append(numbers)
        return (Use(self.groups[key], numbers),)

    def _group(self, block: Block, arguments: Sequence[str], name: str) -> Group:
        """A class for `block` alone."""
        construction = self._construction(block)
        numbers = tuple(number for parts in construction for number in numbers_of(parts))
        return Group(name, construction, self._methods(block, arguments), [numbers])

    def _chain(self, block: Block) -> Chain | None:
        """`nn.Sequential(...)` when the block passes one value through its numbered members in order.

        Activations become modules; a number nobody uses (of a folded BatchNorm) is held by `nn.Identity`.
        """
        if len(block.inputs) != 1 or len(block.outputs) != 1:
            return None
        current, parts, members = block.inputs[0], list[Parts](), 0
        for entry in block.statements:
            step = self._step(entry)
            if step is None or step.inputs != [current]:
                return None
            if step.path:
                number = step.path.removeprefix(f"{block.path}.")
                if not number.isdigit() or int(number) < len(parts):
                    return None
                parts += [("nn.Identity()",)] * (int(number) - len(parts))
                members += 1
            parts.append(step.made)
            current = step.result
        if current is not block.outputs[0] or not members:
            return None
        if members != len(list(self.module.get_submodule(block.path).children())):
            return None
        return Chain(tuple(parts))

    def _step(self, entry: fx.Node | Call) -> _Step | None:
        """One statement as a member of a Sequential, if it can be one."""
        if isinstance(entry, Call):
            if len(entry.outputs) != 1:
                return None
            return _Step(entry.block.path, list(entry.inputs), self._construct(entry.block), entry.outputs[0])
        if entry.op == "call_module":
            return _Step(str(entry.target), entry.all_input_nodes, self._layer(str(entry.target)), entry)
        if entry.target in _ACTIVATIONS and len(entry.args) == 1 and not entry.kwargs:
            return _Step("", entry.all_input_nodes, (_ACTIVATIONS[entry.target],), entry)
        return None

    def _layer(self, path: str) -> Parts:
        return layer_parts(construction_of(self.module.get_submodule(path)))

    def _methods(self, block: Block, arguments: Sequence[str]) -> str:
        signature = ", ".join(
            ["self", *(f"{name}: {_annotation(n)}" for name, n in zip(arguments, block.inputs, strict=True))]
        )
        lines = [f"    def forward({signature}):"]
        return "\n".join([*lines, *(f"        {line}" for line in self._forward(block, arguments))])

    def _construction(self, block: Block) -> list[Parts]:
        """Statements that make the members of a block; members of inlined paths are made where they are."""
        blocks = {child.path: child for child in block.children}
        lines: list[Parts] = []
        self._construct_members(block.path, "self", blocks, lines)
        return lines if block.path else [*lines, *self._ties()]

    def _ties(self) -> list[Parts]:
        """Statements that make one parameter of those that share a weight."""
        first: dict[int, str] = {}
        lines: list[Parts] = []
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            known = first.setdefault(id(parameter), name)
            if known != name:
                lines.append((f"{_relative(name, '')} = {_relative(known, '')}",))
        return lines

    def _construct_members(self, path: str, owner: str, blocks: dict[str, Block], lines: list[Parts]) -> None:
        container = self.module.get_submodule(path) if path else self.module
        for name, parameter in container.named_parameters(recurse=False):
            made = f"nn.Parameter(torch.empty({_size(parameter.shape)}{_dtype(parameter)}))"
            lines.append((f"{owner}.{name} = {made}",))
        for name, buffer in container.named_buffers(recurse=False):
            made = f"torch.empty({_size(buffer.shape)}, dtype={buffer.dtype})"
            lines.append((f'{owner}.register_buffer("{name}", {made})',))
        for name, child in container.named_children():
            child_path = f"{path}.{name}".lstrip(".")
            inner = type(child) is nn.Module and child_path not in blocks
            layer: Parts = ("nn.Module()",) if inner else self._made(child_path, blocks)
            lines.append(_assignment(owner, name, layer))
            if inner:
                self._construct_members(child_path, member(owner, name), blocks, lines)

    def _made(self, path: str, blocks: dict[str, Block]) -> Parts:
        return self._construct(blocks[path]) if path in blocks else self._layer(path)

    def _forward(self, block: Block, arguments: Sequence[str]) -> list[str]:
        names = _Names(block, arguments)
        lines = []
        for position, entry in enumerate(block.statements):
            if isinstance(entry, Call):
                inputs = ", ".join(names[node] for node in entry.inputs)
                value = f"{_relative(entry.block.path, block.path)}({inputs})"
                targets = names.assign(entry.outputs, position)
            else:
                value = expression(entry, names, lambda target: _relative(target, block.path))
                targets = names.assign([entry], position)
            lines.append(f"{', '.join(targets)} = {value}")
        returned = ", ".join(names[node] for node in block.outputs)
        if lines and lines[-1].startswith(f"{returned} = "):
            lines[-1] = "return " + lines[-1].removeprefix(f"{returned} = ")
            return lines
        return [*lines, f"return {returned}"]

    def _class_name(self, block: Block) -> str:
        wanted = self._stated_class(block) or _name_of_path(block.path)
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}{number}"
        self._taken.add(name)
        return name

    def _stated_class(self, block: Block) -> str | None:
        """The class name a dynamo export tells for this path."""
        for node in _all_nodes(block):
            name = node.meta.get("classes", {}).get(block.path)
            if name and name.isidentifier() and name not in dir(nn):
                return str(name)
        return None


class _Names(dict[fx.Node, str]):
    """Variable names within one forward: `x` as long as only one value lives, then the next letters."""

    def __init__(self, block: Block, arguments: Sequence[str]) -> None:
        super().__init__(zip(block.inputs, arguments, strict=True))
        self._living = {name: node for node, name in self.items()}
        self._last_use: dict[fx.Node, int] = {node: len(block.statements) for node in block.outputs}
        for position, entry in enumerate(block.statements):
            used = entry.inputs if isinstance(entry, Call) else entry.all_input_nodes
            for node in used:
                self._last_use[node] = max(position, self._last_use.get(node, 0))

    def assign(self, results: Sequence[fx.Node], position: int) -> list[str]:
        """Names for the results of the statement at `position`, avoiding all values needed later."""
        self._living = {name: node for name, node in self._living.items() if self._last_use.get(node, -1) > position}
        for node in results:
            names = chain(_NAMES, (f"v{number}" for number in count()))
            self[node] = next(name for name in names if name not in self._living)
            self._living[self[node]] = node
        return [self[node] for node in results]


def _relative(path: str, block: str) -> str:
    text = "self"
    for part in path.removeprefix(f"{block}." if block else "").split("."):
        text = member(text, part)
    return text


def _input_names(block: Block) -> list[str]:
    return [_NAMES[i] if i < len(_NAMES) else f"v{i}" for i in range(len(block.inputs))]


def _argument(node: fx.Node) -> str:
    return str(node.target)


def _annotation(node: fx.Node) -> str:
    return "int" if node.target == "size" else "Tensor"


def _assignment(owner: str, name: str, value: Parts) -> Parts:
    if name.isdigit():
        return (f'{owner}.add_module("{name}", ', *value, ")")
    return (f"{owner}.{name} = ", *value)


def _size(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape)) or "()"


def _dtype(parameter: nn.Parameter) -> str:
    return "" if str(parameter.dtype) == "torch.float32" else f", dtype={parameter.dtype}"


def _name_of_path(path: str) -> str:
    """`conv2.0.conv1` -> `Conv1`, `layer1.0` -> `Layer1Block`."""
    words = path.split(".")
    named = next((word for word in reversed(words) if not word.isdigit()), "block")
    camel = "".join(part[:1].upper() + part[1:] for part in re.split(r"\W|_", named))
    camel = camel if camel[:1].isalpha() else f"Block{camel}"
    return f"{camel}Block" if words[-1].isdigit() else camel


def _all_nodes(block: Block) -> list[fx.Node]:
    nodes: list[fx.Node] = []
    for entry in block.statements:
        nodes.extend(entry.nodes if isinstance(entry, Call) else [entry])
    return nodes
