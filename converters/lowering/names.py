"""Names for modules and parameters, recovered from what exporters leave in node and initializer names.

- TorchScript exports carry the module's path in the node name: `/conv2/conv2.0/conv1/conv/Conv` is
  `conv2.0.conv1.conv`, with the type of the operator at the end.
- Dynamo exports carry it in the metadata of every node (`pkg.torch.onnx.name_scopes`).
- Unfused initializers keep the parameter's name (`conv2.0.conv1.conv.weight`); fused or generated ones do not
  (`onnx::Conv_1047`, `val_16`).

Names that cannot be Python attributes, or would hide one of `nn.Module`'s, are changed as little as possible.
"""

from __future__ import annotations

import ast
import keyword
import re
from functools import lru_cache

import onnx_ir as ir
from torch import nn

__all__ = ["classes_of", "is_generated", "parameter_path", "safe_path", "scope_of", "tells_scope"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"
_GENERATED = re.compile(
    r"^(onnx::|val_\d+|_val_\d+|(const_|Constant|constant|scalar)[^.]*$|.*/)|(_output_\d+|::\w+_\d+)$|^\d+$"
)
_TRAILING_INDEX = re.compile(r"_\d+$")
_RESERVED = frozenset(dir(nn.Module())) | {"graph", "code", "meta"}


def is_generated(name: str) -> bool:
    """Whether an initializer's name was made up by an exporter rather than taken from the model."""
    return bool(_GENERATED.search(name))


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
    if is_generated(name) or not name:
        return None
    module, _, attribute = name.rpartition(".")
    return module, attribute


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
