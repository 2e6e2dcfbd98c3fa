"""Choose the name of a restored BatchNorm: the original one where the file records it, else the most likely one.

1. The scope that the exporter recorded: dynamo gives a fused Conv the scope of the BatchNorm that was fused into it.
2. The conventions of public networks: `conv` -> `bn`, `conv2` -> `bn2` (or `bn3` where a `bn2` exists, as in iResNet),
   `downsample.0` -> `downsample.1`.
3. The name of the layer with `_bn` appended; `bn3_` behind a layer called 3, as `3_bn` is no name in Python.

rtool's own exports record the name in the model's metadata; `restore` passes it as the scope.
"""

from __future__ import annotations

import re
from itertools import count

from torch import nn

from ..lowering.names import safe_path

__all__ = ["batchnorm_path", "usual_names"]

_NUMBERED = re.compile(r"^(?P<stem>.*?)(?P<number>\d+)$")


def batchnorm_path(root: nn.Module, layer: str, scope: str = "") -> str:
    """A free path in `root` for the BatchNorm behind `layer`; `scope` is the recorded path, "" where there is none."""
    free = (path for path in usual_names(layer, scope) if _is_free(root, path))
    numbered = (f"{_appended(layer)}{number}" for number in count(2))
    return next(free, None) or next(path for path in numbered if _is_free(root, path))


def usual_names(layer: str, scope: str = "") -> list[str]:
    """What the BatchNorm behind `layer` may be called, the most likely name first; `scope` is the recorded path."""
    recorded = [safe_path(scope)] if scope and safe_path(scope) != layer else []
    return [*recorded, *_guesses(layer), _appended(layer)]


def _appended(layer: str) -> str:
    parent, dot, name = layer.rpartition(".")
    return f"{parent}{dot}bn{name}_" if name.isdecimal() else f"{layer}_bn"


def _guesses(layer: str) -> list[str]:
    parent, _, name = layer.rpartition(".")
    prefix = parent + "." if parent else ""
    numbered = _NUMBERED.match(name)
    if numbered is None:
        return [prefix + name.replace("conv", "bn")] if "conv" in name else []
    number = int(numbered["number"])
    if not numbered["stem"]:
        return [f"{prefix}{number + 1}"]
    if "conv" not in numbered["stem"]:
        return []
    stem = prefix + numbered["stem"].replace("conv", "bn")
    return [f"{stem}{number}", f"{stem}{number + 1}"]


def _is_free(root: nn.Module, path: str) -> bool:
    """Whether a module can be added at `path`: nothing is there, and all parents are plain containers."""
    current: nn.Module = root
    *parents, name = path.split(".")
    for part in parents:
        child = getattr(current, part, None)
        if child is None:
            return True
        if not isinstance(child, nn.Module) or type(child) not in (nn.Module, nn.Sequential, nn.ModuleList):
            return False
        current = child
    return not hasattr(current, name)
