"""What a converted module remembers of the ONNX file it came from.

`onnx_to_torch` attaches a `ConversionRecord` to its module; restore, fold, write-back, bundles and exports read it.
It is plain data and survives `copy.deepcopy`. Only this file knows how it is attached: read it with `record_of`, or
with `require_record` where a module without one is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ...errors import InputError
from .file_digest import FileDigest
from .preprocessing import Preprocessing
from .provenance import ChainLink

if TYPE_CHECKING:
    from torch import fx, nn  # serving takes TensorSpec from here and must not load torch

    from .graph_steps import GraphStep

__all__ = [
    "ConversionRecord",
    "ParameterSource",
    "RestoredBatchNorm",
    "TensorSpec",
    "attach_record",
    "record_of",
    "require_graph",
    "require_record",
    "source_link",
]

_KEY = "rtool"
"""Of `fx.GraphModule.meta`, which torch copies with the module."""

Dim = int | str | None
"""A dimension of a graph input or output: a number, a symbol's name, or unknown."""

Transform = Literal["identity", "transpose", "reshape"]
"""How a parameter is made from its initializer; each can be undone without changing a bit."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, NumPy dtype name and shape of one graph input or output."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class ParameterSource:
    """The value of the source graph that a parameter or buffer was made from, and how.

    `value` is the name of an initializer, or of the output of a Constant node, in the source file.
    `transpose` swaps the two axes of a matrix; `reshape` keeps the elements in order.
    """

    value: str
    transform: Transform = "identity"


@dataclass(frozen=True)
class RestoredBatchNorm:
    """One BatchNorm put back behind a fused Conv or Linear: module path, the module it follows, channels."""

    module: str
    after: str
    channels: int
    eps: float


@dataclass
class ConversionRecord:
    """Where a module comes from. `parameters` maps every parameter and buffer path to its source value."""

    source: str
    """File name of the source model (no folder), or "<memory>"."""
    digest: FileDigest | str | None
    opset: int
    producer: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: dict[str, ParameterSource] = field(default_factory=dict)
    nodes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Module path -> names of the source nodes it stands for, in graph order."""
    restored: tuple[RestoredBatchNorm, ...] = ()
    frozen: tuple[str, ...] = ()
    """Parameters that never train; a configuration cannot change that."""
    learned: tuple[str, ...] = ()
    """Names or patterns of single numbers of the file that the caller called learned."""
    folded: dict[str, str] = field(default_factory=dict)
    """Weight value -> path of the BatchNorm folded into it, where the file's own metadata states it."""
    steps: tuple[GraphStep, ...] | None = None
    """The steps of the fx graph as it was converted, to detect an edit; None where they were not recorded."""
    preprocessing: Preprocessing | None = None
    earlier: tuple[ChainLink, ...] = ()
    """The provenance of the source, as the file itself states it."""
    stated_chain: tuple[ChainLink, ...] | None = None
    """The whole chain, where a bundle states it or something was done after the conversion."""

    @property
    def sha256(self) -> str | None:
        """Of the source file.

        Raises:
            InputError: the file was written to after it was read, and the digest was not computed before.
        """
        return self.digest.value if isinstance(self.digest, FileDigest) else self.digest

    @property
    def chain(self) -> tuple[ChainLink, ...]:
        """The provenance of the module, oldest link first."""
        return (*self.earlier, source_link(self)) if self.stated_chain is None else self.stated_chain

    @chain.setter
    def chain(self, chain: tuple[ChainLink, ...]) -> None:
        self.stated_chain = chain


def attach_record(module: fx.GraphModule, record: ConversionRecord) -> None:
    """Make `record` the record of `module`, in place."""
    module.meta[_KEY] = record


def record_of(module: nn.Module) -> ConversionRecord | None:
    """The record of a converted module; None for a module that `onnx_to_torch` did not make."""
    meta = getattr(module, "meta", None)
    record = meta.get(_KEY) if isinstance(meta, dict) else None
    return record if isinstance(record, ConversionRecord) else None


def require_record(module: nn.Module) -> ConversionRecord:
    """The record of a converted module.

    Raises:
        InputError: `module` was not made by `onnx_to_torch`.
    """
    record = record_of(module)
    if record is None:
        raise InputError(
            f"{type(module).__name__} was not converted from ONNX by rtool, so it has no source graph; "
            "convert it with onnx_to_torch, or export it with torch_to_onnx"
        )
    return record


def require_graph(module: nn.Module) -> None:
    """Stop where `module` has no fx graph to work on.

    Raises:
        InputError: `module` is not a `torch.fx.GraphModule`.
    """
    from torch import fx

    if not isinstance(module, fx.GraphModule):
        raise InputError(
            f"expected a torch.fx.GraphModule, got {type(module).__name__}; convert the file with onnx_to_torch, or "
            "trace the module with torch.fx.symbolic_trace"
        )


def source_link(record: ConversionRecord) -> ChainLink:
    """The ONNX file a model began as."""
    detail = f"{record.source}, opset {record.opset}, by {record.producer or 'an unnamed exporter'}"
    facts = {"file": record.source, "sha256": record.sha256, "opset": record.opset, "producer": record.producer}
    return ChainLink("source", detail, facts)
