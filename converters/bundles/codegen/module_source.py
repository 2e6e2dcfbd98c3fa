"""Readable Python source for a converted module: `model.py` of a bundle, which imports only torch.

`Model()` of the generated file with the weights of the bundle loaded into it is the same function, without rtool.
rtool itself never executes that file; `check` executes the text before it is saved.
"""

from __future__ import annotations

import re

from torch import fx, nn

from ...records.record import record_of
from .blocks import build_blocks
from .classes import ClassWriter
from .helpers import helper_sources

__all__ = ["generate_source"]

_HEADER = '''"""{title}

Generated; needs only torch. To use it:

    model = Model()
    {load}
"""

from typing import List

import torch
import torch.nn.functional as F
from torch import Tensor, nn
'''
_LOAD = 'model.load_state_dict(safetensors.torch.load_file("weights.safetensors"))'
_LOAD_TIED = 'safetensors.torch.load_model(model, "weights.safetensors")  # tied weights are in it once'


def generate_source(module: nn.Module) -> str:
    """The text of `model.py` for a converted module, or one that torch.fx can trace."""
    traced = module if isinstance(module, fx.GraphModule) else _traced(module)
    record = record_of(traced)
    title = f"The network of {_quoted(record.source)}." if record else f"The network {type(module).__name__}."
    helpers = _helpers(traced)
    taken = re.findall(r"^(?:def |class |)(\w+)", "\n".join(helpers), re.MULTILINE)
    classes = ClassWriter(traced, taken).write(build_blocks(traced))
    tied = len(list(traced.parameters())) < len(list(traced.named_parameters(remove_duplicate=False)))
    header = _HEADER.format(title=title, load=_LOAD_TIED if tied else _LOAD).rstrip()
    return "\n\n\n".join([header, *helpers, classes]).rstrip() + "\n"


def _traced(module: nn.Module) -> fx.GraphModule:
    """`module` as a graph, with the tensors that its forward does not use: they are among its weights."""
    traced = fx.symbolic_trace(module)
    known = traced.state_dict()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if name not in known and name in module.state_dict():
            owner, _, attribute = name.rpartition(".")
            container: nn.Module = traced
            for part in filter(None, owner.split(".")):
                if not hasattr(container, part):
                    container.add_module(part, nn.Module())
                container = getattr(container, part)
            if isinstance(tensor, nn.Parameter):
                container.register_parameter(attribute, tensor)
            else:
                container.register_buffer(attribute, tensor)
    return traced


def _quoted(name: str) -> str:
    """A file's name as it may stand in a docstring, which it must not end or escape from."""
    return repr(name)[1:-1].replace('"', '\\"')


def _helpers(module: fx.GraphModule) -> list[str]:
    """Source of the exact helpers the module calls, and of what they call themselves."""
    targets = [node.target for node in module.graph.nodes if node.op == "call_function"]
    targets += [type(layer) for layer in module.modules()]
    return helper_sources(dict.fromkeys(targets))
