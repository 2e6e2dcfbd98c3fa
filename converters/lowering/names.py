"""Names for modules and parameters, recovered from what exporters leave in node and initializer names.

- TorchScript exports carry the module's path in the node name: `/conv2/conv2.0/conv1/conv/Conv` is
  `conv2.0.conv1.conv`, with the type of the operator at the end.
- Dynamo exports carry it in the metadata of every node (`pkg.torch.onnx.name_scopes`).
- Unfused initializers keep the parameter's name (`conv2.0.conv1.conv.weight`); fused or generated ones do not
  (`onnx::Conv_1047`, `val_16`).
- Where an optimiser left neither, the named weights before and behind a node say where it belongs.

Names that cannot be Python attributes, or would hide one of `nn.Module`'s, are changed as little as possible.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache

import onnx_ir as ir
from torch import nn

from ..passes.constant_folding import source_of_constant
from ..records.generated_names import is_generated

__all__ = [
    "classes_of",
    "is_original",
    "neighbouring_path",
    "parameter_path",
    "safe_path",
    "scope_of",
    "tells_scope",
]

_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"
_FOLDED = re.compile(
    r"^(_to_copy|cast|clone|expand|permute|reshape|select|slice|squeeze|t|transpose|unsqueeze|view)(_\d+)?$"
)
"""What dynamo calls the value of an operation; a simplifier that folds it leaves the name to the weight."""
_RESERVED = frozenset(dir(nn.Module())) | {"graph", "code", "meta"}


def is_original(name: str) -> bool:
    """Whether a weight has the name it had in the model, not that of an operation which was folded into it."""
    return bool(name) and not is_generated(name) and not _FOLDED.search(name)


def scope_of(node: ir.Node) -> str:
    """The path of the module a node came from, "" for the top level or when nothing says."""
    scopes = node.metadata_props.get(_SCOPES)
    if scopes:
        return _dynamo_scope(scopes)
    name = node.name or ""
    return _torchscript_scope(name) if name.startswith("/") else ""


def tells_scope(node: ir.Node) -> bool:
    """Whether anything says where a node came from; nodes that an optimiser made say nothing."""
    return _SCOPES in node.metadata_props or (node.name or "").startswith("/")


def classes_of(node: ir.Node) -> dict[str, str]:
    """Module path -> class name, for the modules a node lay in; only dynamo exports tell."""
    scopes, hierarchy = node.metadata_props.get(_SCOPES), node.metadata_props.get(_CLASSES)
    return dict(_paired(scopes, hierarchy)) if scopes and hierarchy else {}


@lru_cache(maxsize=256)
def _paired(scopes: str, hierarchy: str) -> tuple[tuple[str, str], ...]:
    paths, classes = _list_of(scopes), _list_of(hierarchy)
    if len(paths) != len(classes):
        return ()
    return tuple((path, name.rpartition(".")[2]) for path, name in zip(paths[:-1], classes[:-1], strict=True))


def _list_of(text: str) -> list[str]:
    try:
        items = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return []
    return [str(item) for item in items] if isinstance(items, list) else []


def _dynamo_scope(text: str) -> str:
    scopes = _list_of(text)
    return scopes[-2] if len(scopes) >= 2 else ""


def _torchscript_scope(name: str) -> str:
    """`/fc/fc.0/Gemm` -> `fc.0`: a Sequential's child repeats its parent's name."""
    path: list[str] = []
    for part in name.strip("/").split("/")[:-1]:
        if path and part.startswith(path[-1] + "."):
            path[-1] = part
        else:
            path.append(part)
    return ".".join(path)


def parameter_path(name: str) -> tuple[str, str] | None:
    """Split an original parameter name into module path and attribute; None for generated names."""
    if not is_original(name):
        return None
    module, _, attribute = name.rpartition(".")
    return module, attribute


_ROLES = {
    **dict.fromkeys(("Conv", "ConvTranspose"), "conv"),
    **dict.fromkeys(("Gemm", "MatMul"), "linear"),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "GroupNormalization"), "norm"),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), "norm"),
    "PRelu": "prelu",
}
"""Operators that become layers, and what a layer without a name is called."""
_FURTHEST = 200
"""Nodes that are looked at on the way to the next named weights."""


def neighbouring_path(node: ir.Node, known: Collection[str]) -> str | None:
    """The module path of a layer or parameter that nothing names, from the named weights around it; None without any.

    An activation belongs to the layer before it. Other layers stand between what is before and behind them: in the
    container both lie in, or where only one of the two goes deeper. `known` are the names of the file's weights. Where
    the layer behind is number k of a list whose number k - 1 is missing, that is the one.
    """
    before = _nearest_paths(node, lambda n: (v.producer() for v in n.inputs if v is not None))
    behind = _nearest_paths(node, lambda n: (use.node for v in n.outputs for use in v.uses()))
    if not before and not behind:
        return None
    first, _, number = behind.rpartition(".")
    if number.isdigit() and int(number) > 0 and not before.startswith(f"{first}.".lstrip(".")):
        missing = f"{first}.{int(number) - 1}".lstrip(".")
        if not any(name.startswith(f"{missing}.") for name in known):
            return missing
    role = _ROLES.get(node.op_type, "")
    container, _, last = before.rpartition(".")
    if role != "prelu":
        container = _container_between(container, first, is_last=not behind)
    if not container and not role:
        return ""
    if last.isdigit() and container == before.rpartition(".")[0]:
        return f"{container}.{int(last) + 1}".lstrip(".")
    return f"{container}.{role}".strip(".")


def _container_between(before: str, behind: str, *, is_last: bool) -> str:
    if is_last or not before:
        return ""
    if not behind or f"{before}.".startswith(f"{behind}.") or f"{behind}.".startswith(f"{before}."):
        return behind
    return before


def _nearest_paths(node: ir.Node, next_of: Callable[[ir.Node], Iterable[ir.Node | None]]) -> str:
    """The path of the nearest named layer in one direction; what several have in common; "" for none."""
    found: list[str] = []
    seen: set[ir.Node] = set()
    waiting = [node]
    while waiting and len(seen) < _FURTHEST:
        current = waiting.pop(0)
        for other in next_of(current):
            if other is None or other in seen:
                continue
            seen.add(other)
            path = _own_path(other)
            if path is None:
                waiting.append(other)
            else:
                found.append(path)
        if found:
            break
    return found[0] if len(set(found)) == 1 else _common(found)


def _own_path(node: ir.Node) -> str | None:
    """The module path that a node's own weights name; for a parameter used directly, that of a member beside it."""
    for value in node.inputs:
        if value is None or value.const_value is None or value.const_value.size < 2:
            continue
        named = parameter_path(source_of_constant(value).value)
        if named is not None and value.dtype is not None and value.dtype.is_floating_point():
            is_layer = node.op_type in _ROLES or named[1] in ("weight", "bias")
            return named[0] if is_layer else f"{named[0]}.{named[1]}".lstrip(".")
    return None


def _common(paths: list[str]) -> str:
    """The path of some member of the container that all `paths` lie in."""
    if not paths:
        return ""
    parts = [path.split(".")[:-1] for path in paths]
    shared = [words[0] for words in zip(*parts, strict=False) if len(set(words)) == 1]
    return ".".join([*shared, "?"])


def safe_path(path: str) -> str:
    """`path` with every component a legal attribute that hides nothing of `nn.Module`."""
    return ".".join(_safe_component(part) for part in path.split(".") if part)


def _safe_component(part: str) -> str:
    cleaned = re.sub(r"\W", "_", part, flags=re.ASCII).strip("_") or "module"
    if cleaned in _RESERVED or keyword.iskeyword(cleaned):
        return cleaned + "_"
    if cleaned[0].isdigit() and not cleaned.isdigit():
        return "m" + cleaned
    return cleaned
