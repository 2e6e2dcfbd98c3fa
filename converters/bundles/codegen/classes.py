"""Turns blocks into classes: one for all blocks that differ in numbers only, plain chains into `nn.Sequential`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from torch import fx, nn

from .blocks import Block
from .chains import chain_items
from .class_names import ClassNames
from .constructors import construction_of
from .containers import Tree
from .forward import VARIABLES, forward_method
from .parameters import Chain, Group, Number, Part, Use, key_of, layer_parts, marked_parts, numbers_of

__all__ = ["ClassWriter"]

Parts = tuple[Part, ...]


class ClassWriter:
    """Collects class definitions, innermost first."""

    def __init__(self, module: fx.GraphModule, taken: Iterable[str] = ()) -> None:
        """`taken` are names that the file defines before the classes."""
        self.module = module
        self.tree = Tree(module)
        self.groups: dict[Hashable, Group] = {}
        """What a class reads like, numbers left out -> the class."""
        self._hidden = frozenset(taken)
        self._names = ClassNames(module, taken)

    def write(self, root: Block) -> str:
        """All classes that `root` needs, and `Model` itself."""
        arguments = self._arguments(root)
        model = self._group(root.path, root.children, forward_method(root, arguments, self._locate_in("")))
        model.name = "Model"
        return "\n\n\n".join([*(group.definition() for group in self.groups.values()), model.definition()])

    def _arguments(self, root: Block) -> list[str]:
        """Names of the model's inputs; one that a helper has would hide it."""
        found: list[str] = []
        for node in root.inputs:
            name = str(node.target)
            while name in self._hidden or name in found:
                name += "_"
            found.append(name)
        return found

    def construct(self, block: Block) -> Parts:
        """The expression that makes a fresh module for `block`, in a class of its own when it needs one."""
        items = chain_items(block, self.tree, self.construct, self.layer)
        if items is not None:
            return (Chain(items),)
        arguments = [VARIABLES[i] if i < len(VARIABLES) else f"v{i}" for i in range(len(block.inputs))]
        method = forward_method(block, arguments, self._locate_in(block.path))
        return self._use(self._group(block.path, block.children, method), block)

    def layer(self, path: str) -> Parts:
        """The expression that makes the layer at `path`."""
        return layer_parts(construction_of(self.module.get_submodule(path)))

    def _locate_in(self, block: str) -> _Locator:
        return _Locator(self.tree, block)

    def _use(self, made: Group, named_after: Block | str) -> Parts:
        """A use of the class that reads as `made` does; of `made` when it is the first."""
        (numbers,) = made.uses
        key = (made.base, *(tuple(map(key_of, lines)) for lines in (made.construction, made.method)))
        if key not in self.groups:
            of = self._names
            made.name = of.of_holder(named_after) if isinstance(named_after, str) else of.of_block(named_after)
            made.uses.clear()
            self.groups[key] = made
        self.groups[key].uses.append(numbers)
        return (Use(self.groups[key], numbers),)

    def _group(self, path: str, blocks: dict[str, Block], method: Sequence[str]) -> Group:
        """A class for `path` alone; `blocks` are those that its members call, by path."""
        is_list, container = self.tree.is_list(path), self.tree.container(path)
        construction = self._construction(path, blocks, is_list=is_list)
        numbers = tuple(number for parts in construction for number in numbers_of(parts))
        lines = [marked_parts(line) for line in method]
        numbers += tuple(number for parts in lines for number in numbers_of(parts))
        members = frozenset(
            name for name, _ in (*container.named_children(), *container.named_parameters(recurse=False))
        )
        return Group("", "nn.ModuleList" if is_list else "nn.Module", construction, lines, members, [numbers])

    def _construction(self, path: str, blocks: dict[str, Block], *, is_list: bool) -> list[Parts]:
        """Statements that make the members of a path."""
        container = self.tree.container(path)
        start: Part = Chain(self._items(path, blocks), "super().__init__") if is_list else "super().__init__()"
        lines: list[Parts] = [(start,)]
        for name, parameter in container.named_parameters(recurse=False):
            lines.append(_assigned(name, "register_parameter", _parameter(parameter)))
        for name, buffer in container.named_buffers(recurse=False):
            made = ("torch.empty(", *_size(buffer.shape), f", dtype={buffer.dtype})")
            lines.append((f'self.register_buffer("{name}", ', *made, ")"))
        for name, _ in container.named_children():
            if not (is_list and name.isdigit()):
                below = f"{path}.{name}".lstrip(".")
                lines.append(_assigned(name, "register_module", self._member(below, blocks)))
        return lines if path else [*lines, *self._ties()]

    def _items(self, path: str, blocks: dict[str, Block]) -> tuple[Parts, ...]:
        """The numbered members of a list, unused numbers held by `nn.Identity()`."""
        numbers = sorted(int(name) for name, _ in self.tree.container(path).named_children() if name.isdigit())
        made = {number: self._member(f"{path}.{number}".lstrip("."), blocks) for number in numbers}
        return tuple(made.get(number, ("nn.Identity()",)) for number in range(numbers[-1] + 1))

    def _member(self, path: str, blocks: dict[str, Block]) -> Parts:
        if path in blocks:
            return self.construct(blocks[path])
        container = self.module.get_submodule(path)
        if type(container) is not nn.Module:
            return self.layer(path)
        is_plain = not [*container.named_parameters(recurse=False), *container.named_buffers(recurse=False)]
        if is_plain and self.tree.is_list(path) and all(name.isdigit() for name, _ in container.named_children()):
            return (Chain(self._items(path, blocks), "nn.ModuleList"),)
        return self._use(self._group(path, blocks, ()), path)

    def _ties(self) -> list[Parts]:
        """Statements that make one parameter of those that share a weight."""
        first: dict[int, str] = {}
        lines: list[Parts] = []
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            known = first.setdefault(id(parameter), name)
            if known != name:
                lines.append((f"{self.tree.locate(name, '')} = {self.tree.locate(known, '')}",))
        return lines


class _Locator:
    """Expressions for paths within the class of one block."""

    def __init__(self, tree: Tree, block: str) -> None:
        self._tree, self._block = tree, block

    def __call__(self, path: str) -> str:
        return self._tree.locate(path, self._block)


def _assigned(name: str, register: str, value: Parts) -> Parts:
    if name.isdigit():
        return (f'self.{register}("{name}", ', *value, ")")
    return (f"self.{name} = ", *value)


def _parameter(parameter: nn.Parameter) -> Parts:
    dtype = "" if str(parameter.dtype) == "torch.float32" else f", dtype={parameter.dtype}"
    frozen = "" if parameter.is_floating_point() else ", requires_grad=False"
    return ("nn.Parameter(torch.empty(", *_size(parameter.shape), f"{dtype}){frozen})")


def _size(shape: Sequence[int]) -> Parts:
    if not shape:
        return ("()",)
    return tuple(Number("shape", str(dim), ", " if place else "") for place, dim in enumerate(shape))
