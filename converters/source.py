"""Readable Python source for a converted module: `model.py` of a bundle, which imports only torch.

`Model()` of the generated file with the weights of the bundle loaded into it is the same function, without rtool.
rtool itself never executes it.
"""

from __future__ import annotations

from torch import fx, nn

from .source_text import attribute_path, constructor, expression, helper_source

__all__ = ["generate_source"]

_HEADER = '''"""{title}

Generated; needs only torch. To use it:

    model = Model()
    model.load_state_dict(safetensors.torch.load_file("weights.safetensors"), strict={strict})
"""

from typing import List

import torch
import torch.nn.functional as F
from torch import Tensor, nn
'''


def generate_source(module: nn.Module) -> str:
    """The text of `model.py` for a converted module, or one that torch.fx can trace."""
    traced = module if isinstance(module, fx.GraphModule) else fx.symbolic_trace(module)
    record = traced.meta.get("rtool")
    title = f"The network of {record.source}." if record is not None else f"The network {type(module).__name__}."
    names = _variables(traced)
    parts = [_HEADER.format(title=title, strict=True), *_helpers(traced), _class(traced, names)]
    return "\n\n".join(parts).rstrip() + "\n"


def _helpers(module: fx.GraphModule) -> list[str]:
    targets = [node.target for node in module.graph.nodes if node.op == "call_function"]
    targets += [type(layer) for layer in module.modules()]
    sources = dict.fromkeys(helper_source(target) for target in dict.fromkeys(targets))
    return [source for source in sources if source is not None]


def _class(module: fx.GraphModule, names: dict[fx.Node, str]) -> str:
    lines = ["class Model(nn.Module):", "    def __init__(self) -> None:", "        super().__init__()"]
    lines += [f"        {line}" for line in _construction(module)]
    arguments = [names[node] for node in module.graph.nodes if node.op == "placeholder"]
    signature = ", ".join(["self", *(f"{name}: Tensor" for name in arguments)])
    lines += ["", f"    def forward({signature}):"]
    for node in module.graph.nodes:
        if node.op == "output":
            result = node.args[0]
            values = result if isinstance(result, tuple | list) else (result,)
            lines.append(f"        return {', '.join(names[value] for value in values)}")
        elif node.op != "placeholder":
            lines.append(f"        {names[node]} = {expression(node, names)}")
    return "\n".join(lines)


def _construction(module: fx.GraphModule) -> list[str]:
    """Statements that build the tree of layers and parameters, in the order of their paths."""
    lines = []
    for path, child in module.named_modules():
        if not path:
            continue
        parent, _, name = path.rpartition(".")
        owner = attribute_path(parent) if parent else "self"
        text = "nn.Module()" if type(child) is nn.Module else constructor(child)
        lines.append(f'{owner}.add_module("{name}", {text})' if name.isdigit() else f"{owner}.{name} = {text}")
        if type(child) is nn.Module:
            lines += _own_tensors(child, path)
    return _own_tensors(module, "") + lines


def _own_tensors(module: nn.Module, path: str) -> list[str]:
    owner = attribute_path(path) if path else "self"
    lines = [
        f"{owner}.{name} = nn.Parameter(torch.empty({list(parameter.shape)}))"
        for name, parameter in module.named_parameters(recurse=False)
    ]
    lines += [
        f'{owner}.register_buffer("{name}", torch.empty({list(buffer.shape)}, dtype={buffer.dtype}))'
        for name, buffer in module.named_buffers(recurse=False)
    ]
    return lines


def _variables(module: fx.GraphModule) -> dict[fx.Node, str]:
    return {node: node.name for node in module.graph.nodes}
