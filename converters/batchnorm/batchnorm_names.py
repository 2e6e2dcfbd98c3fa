"""What a restored BatchNorm is called: its original name where the file tells, else the name it most likely had.

rtool's own exports say in the model's metadata what was folded into which weight. Other exporters leave traces:
dynamo gives a fused Conv the scope of the BatchNorm that went into it. Where nothing is left, the habits of the
public networks are followed: `conv` -> `bn`, `conv2` -> `bn2` (or `bn3` when an unfused `bn2` stands there, as in
iResNet), `downsample.0` -> `downsample.1`.
"""

from __future__ import annotations

import re
from itertools import count

from torch import nn

from ..lowering.names import safe_path

__all__ = ["batchnorm_path"]

_NUMBERED = re.compile(r"^(?P<stem>.*?)(?P<number>\d+)$")


def batchnorm_path(root: nn.Module, layer: str, scope: str = "") -> str:
    """A free path in `root` for the BatchNorm behind `layer`; `scope` is where the exporter says the node was."""
    candidates = [safe_path(scope)] if scope and safe_path(scope) != layer else []
    candidates += [*_guesses(layer), f"{layer}_bn"]
    free = (path for path in candidates if _is_free(root, path))
    numbered = (f"{layer}_bn{number}" for number in count(2))
    return next(free, None) or next(path for path in numbered if _is_free(root, path))


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
    """Whether a module can be put at `path`: nothing there, and only plain containers above."""
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
