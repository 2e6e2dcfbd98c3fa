"""Executes generated source text, from memory and before it is saved, so that it can be compared with the module.

Only text that `generate_source` has just made is executed, never a file. Its syntax tree is checked first: imports of
torch and of the standard library's `math` and `typing` alone, and no builtins that reach outside. Names from an ONNX
file enter it as identifiers and string literals only; this would stop one that did not.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Iterator

import torch
from torch import fx, nn

from ....errors import GateError
from ...records.record import record_of
from .module_source import generate_source

__all__ = ["module_from_source", "refuse_unexpected_syntax", "written_module"]

_IMPORTS = frozenset(
    {"torch", "torch.nn", "torch.nn.functional", "math", "struct", "typing", "operator", "collections.abc"}
)
_REACHING_OUTSIDE = frozenset(
    {"__import__", "breakpoint", "builtins", "compile", "delattr", "eval", "exec", "exit", "getattr", "globals"}
    | {"help", "input", "locals", "memoryview", "open", "print", "quit", "setattr", "vars"}
)
_SPECIAL = frozenset({"__init__"})


def written_module(module: fx.GraphModule) -> nn.Module:
    """The module that the generated source of `module` makes, in eval mode, with the weights of `module` in it.

    It shares the memory of those weights, and the record of the conversion, so that it runs as `module` does.

    Raises:
        GateError: the text cannot be executed, its keys are not those of `module`, or one of its layers differs.
    """
    label = _label(module)
    text = generate_source(module)
    try:
        made = module_from_source(text, module.state_dict())
    except Exception as error:  # whatever is wrong with the text, nothing is written
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise GateError(
            f"{label}: its model.py was expected to load, got {reason}; nothing was written, report this model"
        ) from error
    _compare_layers(module, made, label)
    made.meta = module.meta  # type: ignore[assignment]
    return made


def module_from_source(text: str, state: dict[str, torch.Tensor]) -> nn.Module:
    """`Model()` of the generated `text` in eval mode with the tensors of `state`, which it shares.

    Raises:
        GateError: the text holds something that generated text does not hold.
        RuntimeError: the keys or shapes of `state` are others.
    """
    refuse_unexpected_syntax(text)
    namespace = types.ModuleType("generated")
    exec(compile(text, "<model.py>", "exec"), namespace.__dict__)
    with torch.device("meta"):
        made = namespace.Model()
    assert isinstance(made, nn.Module)
    made.load_state_dict(state, strict=True, assign=True)
    return made.eval()


def refuse_unexpected_syntax(text: str) -> None:
    """Stop before anything runs when `text` could do more than define classes and functions over tensors.

    Raises:
        GateError: naming the line and what stands there.
    """
    tree = ast.parse(text)
    for line, found in _all_unexpected(tree, frozenset()):
        raise GateError(
            f"model.py: line {line} holds {found}, expected definitions over torch only; nothing was executed or "
            "written, report this model"
        )
    for statement in tree.body:
        allowed = ast.Import | ast.ImportFrom | ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign | ast.Expr
        is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if not isinstance(statement, allowed) or (isinstance(statement, ast.Expr) and not is_docstring):
            raise GateError(
                f"model.py: line {statement.lineno} is a statement that runs, expected definitions only; nothing was "
                "executed or written, report this model"
            )


def _all_unexpected(node: ast.AST, own: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Lines with what generated text never holds; `own` are the arguments of the functions around `node`."""
    found = _unexpected(node, own)
    if found:
        yield getattr(node, "lineno", 0), found
    if isinstance(node, ast.FunctionDef):
        own |= {argument.arg for argument in node.args.args}
    for child in ast.iter_child_nodes(node):
        yield from _all_unexpected(child, own)


def _unexpected(node: ast.AST, own: frozenset[str]) -> str:
    """What `node` holds that generated text never does; "" for nothing."""
    if isinstance(node, ast.Import):
        return next((f"import {alias.name}" for alias in node.names if alias.name not in _IMPORTS), "")
    if isinstance(node, ast.ImportFrom):
        return "" if node.module in _IMPORTS and not node.level else f"from {node.module} import"
    if isinstance(node, ast.Name) and node.id not in own and (node.id in _REACHING_OUTSIDE or _is_special(node.id)):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) and _is_special(node.attr) else ""


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__") and name not in _SPECIAL


def _compare_layers(module: nn.Module, made: nn.Module, label: str) -> None:
    """Outputs alone do not show everything: an eps makes no difference to large inputs."""
    for path, layer in module.named_modules():
        if type(layer) is nn.Module or not path:
            continue
        twin = made.get_submodule(path)
        if type(twin) is not type(layer) or twin.extra_repr() != layer.extra_repr():
            raise GateError(
                f"{label}: layer {path} is {layer!r}, in its model.py it is {twin!r}; nothing was written, "
                "report this model"
            )


def _label(module: fx.GraphModule) -> str:
    record = record_of(module)
    return str(record.source) if record is not None else type(module).__name__
