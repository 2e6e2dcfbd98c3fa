"""An exported program as TorchScript, with its open sizes: each operator call is written, nothing is traced.

Triton's PyTorch back end takes TorchScript; of `.pt2` it takes those that were compiled to machine code for one kind of
processor (`platform: "torch_aoti"`, since 26.03), and no batches with them. A program's graph has ATen operators alone,
which TorchScript calls by the same names, so nothing needs an example and every open size stays open.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from ...errors import InputError

__all__ = ["script_of_program"]

_GUARDS = "_guards_fn"
"""The module that checks sizes in Python."""


def script_of_program(program: ExportedProgram, module: fx.GraphModule, label: str) -> torch.jit.ScriptModule:
    """The module of an exported program, `program.module()`, as TorchScript. The tensors are shared.

    Raises:
        InputError: it takes or returns something else than tensors in a tuple, or TorchScript lacks an operator.
    """
    _check_structure(program, label)
    graph, single = _scriptable(module.graph), program.call_spec.out_spec.is_leaf()
    output = next(node for node in graph.nodes if node.op == "output")
    (results,) = output.args
    output.args = (results[0] if single else tuple(results),)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scripted = torch.jit.script(fx.GraphModule(module, graph))
            assert isinstance(scripted, torch.jit.ScriptModule)
            return scripted.eval()
    except Exception as error:  # what the compiler of TorchScript raises has no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{label}: this program cannot be written as TorchScript, which is what is served ({reason[:200]}); export "
            "the model it came from with `rtool export MODEL --format torchscript`, or as ONNX"
        ) from error


def _check_structure(program: ExportedProgram, label: str) -> None:
    takes, gives = program.call_spec.in_spec, program.call_spec.out_spec
    inputs = takes.children() if hasattr(takes, "children") else []
    flat = all(child.is_leaf() for part in inputs for child in part.children()) if takes is not None else False
    named = [child for part in inputs[1:] for child in part.children()]
    if not flat or named:
        raise InputError(f"{label}: takes more than tensors in their order; wrap it, and export it again")
    if not gives.is_leaf() and not (gives.type in (tuple, list) and all(one.is_leaf() for one in gives.children())):
        raise InputError(f"{label}: returns more than a tensor or a tuple of tensors; wrap it, and export it again")


def _scriptable(source: fx.Graph) -> fx.Graph:
    """The graph without guards, with operators by their names, and sizes as numbers."""
    graph, made = fx.Graph(), dict[fx.Node, fx.Node]()

    def mapped(value: Any) -> Any:
        return fx.map_arg(value, lambda node: made[node])

    for node in source.nodes:
        if node.op == "call_module" and node.target == _GUARDS:
            continue
        target = node.target
        if node.op == "call_function" and isinstance(target, torch._ops.OpOverload):
            packet = torch.ops.aten.size if target is torch.ops.aten.sym_size.int else target.overloadpacket
            made[node] = graph.call_function(packet, mapped(node.args), mapped(node.kwargs))
        else:
            made[node] = graph.node_copy(node, lambda old: made[old])
    return graph
