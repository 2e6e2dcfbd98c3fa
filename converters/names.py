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

import onnx_ir as ir
from torch import nn

__all__ = ["is_generated", "parameter_path", "safe_path", "scope_of"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_GENERATED = re.compile(
    r"^(onnx::|val_\d+|_val_\d+|const_|Constant|constant|scalar|.*/)|(_output_\d+|::\w+_\d+)$|^\d+$"
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


def _dynamo_scope(text: str) -> str:
    try:
        scopes = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return ""
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) >= 2 else ""


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
