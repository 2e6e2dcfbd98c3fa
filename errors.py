"""The errors a user can cause, each with the exit code of the command.

A message names the file, the place in it, what was expected, what was found and how to fix it, e.g.
`model.onnx: node 'Conv_12' (Conv, opset 13): auto_pad=SAME_LOWER unsupported; re-export with explicit pads`.
Anything that is not an `RtoolError` is our bug: the command line shows its traceback and exits with 101.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

__all__ = [
    "ConfigError",
    "DataError",
    "GateError",
    "InputError",
    "PlatformError",
    "RtoolError",
    "UnsupportedNode",
    "UnsupportedOperatorsError",
    "first_named",
    "nearest",
]


class RtoolError(Exception):
    """Base of every error caused by input, configuration or environment."""

    exit_code = 2


class InputError(RtoolError):
    """A file, folder or argument is missing, malformed or of the wrong kind."""


class ConfigError(RtoolError):
    """A configuration key or value is wrong."""


class DataError(RtoolError):
    """A data set cannot be used: wrong layout, too few identities, too many unreadable images."""


class PlatformError(RtoolError):
    """The machine lacks something that was asked for: a GPU, a port, a Triton build."""


class GateError(RtoolError):
    """The command ran, and its result missed a stated tolerance or target."""

    exit_code = 1


@dataclass(frozen=True)
class UnsupportedNode:
    """One node that cannot be converted exactly: where it is and what to do about it."""

    node: str
    operator: str
    opset: int
    reason: str

    def __str__(self) -> str:
        return f"node '{self.node}' ({self.operator}, opset {self.opset}): {self.reason}"


class UnsupportedOperatorsError(RtoolError):
    """A graph holds nodes that cannot be converted exactly; the message lists all of them at once.

    `source` is the name of the ONNX file.
    """

    def __init__(self, source: str, nodes: Iterable[UnsupportedNode]) -> None:
        self.source = source
        self.nodes = tuple(nodes)
        lines = "\n".join(f"  {node}" for node in self.nodes)
        count = "1 node" if len(self.nodes) == 1 else f"{len(self.nodes)} nodes"
        super().__init__(f"{source}: {count} cannot be converted exactly:\n{lines}")


def first_named(names: Sequence[str]) -> str:
    """The first of `names`, quoted, and how many there are beside it: "'conv.weight'", "'conv.weight' (and 2 more)".

    Args:
        names: at least one.
    """
    return repr(names[0]) if len(names) == 1 else f"{names[0]!r} (and {len(names) - 1} more)"


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint that ends a message about an unknown name: "did you mean osnet_x0_25?".

    It names up to three similar names; without one it lists all: "known: iresnet18, osnet_x0_25".
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"
