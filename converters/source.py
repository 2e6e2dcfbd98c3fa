"""Readable Python source for a converted module: `model.py` of a bundle, which imports only torch.

`Model()` of the generated file with the weights of the bundle loaded into it is the same function, without rtool.
rtool itself never executes it.
"""

from __future__ import annotations

from torch import fx, nn

from .source_blocks import build_blocks
from .source_classes import ClassWriter
from .source_helpers import helper_sources

__all__ = ["generate_source"]

_HEADER = '''"""{title}

Generated; needs only torch. To use it:

    model = Model()
    model.load_state_dict(safetensors.torch.load_file("weights.safetensors"))
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
    classes = ClassWriter(traced).write(build_blocks(traced))
    return "\n\n\n".join([_HEADER.format(title=title).rstrip(), *_helpers(traced), classes]).rstrip() + "\n"


def _helpers(module: fx.GraphModule) -> list[str]:
    """Source of the exact helpers the module calls, and of what they call themselves."""
    targets = [node.target for node in module.graph.nodes if node.op == "call_function"]
    targets += [type(layer) for layer in module.modules()]
    return helper_sources(dict.fromkeys(targets))
