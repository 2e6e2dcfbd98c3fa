"""What `inspect` returns, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..records.batch_proof import BatchProof, describe_batch
from ..records.preprocessing import Preprocessing
from ..records.provenance import ChainLink
from ..records.record import TensorSpec

if TYPE_CHECKING:
    from ..batchnorm.fold import KeptBatchNorm
    from ..weights.weight_match import WeightMatch

__all__ = ["UNPROVED", "BatchNorms", "Inspection", "describe_proof"]

UNPROVED = "not verified"
"""What is said of a batch that a file declares and nothing proves."""


def describe_proof(proof: BatchProof | None) -> str:
    """What is said of a dynamic batch with this proof."""
    return describe_batch("dynamic", proof).removeprefix("dynamic, ")


@dataclass(frozen=True)
class BatchNorms:
    """Numbers of BatchNorms: fused into layers, present, and those that cannot be folded."""

    fused: int | None
    """Layers that had a BatchNorm, according to names and metadata; None where nothing tells."""
    present: int
    unfoldable: tuple[KeptBatchNorm, ...] | None = None
    """None where nothing was converted, so that it was not tried."""
    restored: int = 0
    """Restored ones of a bundle."""


@dataclass(frozen=True)
class Inspection:
    """Everything that `rtool inspect` prints; costs are per image."""

    name: str
    kind: str
    size_bytes: int
    """Of the file or bundle; for a name of the zoo, of its weights in float32."""
    sha256: str | None
    producer: str
    ir_version: int | None
    opsets: Mapping[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: int | str
    """The fixed batch, or "dynamic"."""
    fixed_batch_places: tuple[str, ...]
    """Where the fixed batch is stated: graph inputs, and nodes with a constant shape."""
    operators: Mapping[str, int]
    parameters: int
    """Trainable numbers."""
    buffers: int
    """Other numbers: running statistics of BatchNorms, fixed constants of a bundle."""
    macs: int | None
    activations: int | None
    precision: str
    """Element types of the weights, most elements first."""
    batchnorms: BatchNorms | None
    preprocessing: Preprocessing | None
    preprocessing_origin: str | None
    architecture: str | None
    problems: tuple[str, ...]
    """What other commands refuse, in their words."""
    chain: tuple[ChainLink, ...]
    """The provenance of the model, oldest link first."""
    batch_proof: str = UNPROVED
    """How a dynamic batch is known to be right: by a proof that is recorded for these very bytes, or one made now."""
    quantised: str = ""
    """How weights or activations are quantised; "" where they are not."""
    unread_inputs: tuple[str, ...] = ()
    """Inputs that no node reads."""
    external_files: tuple[str, ...] = ()
    """Names of the files that hold external data, all of which were checked."""
    external_bytes: int = 0
    """Size of those files."""
    verified: bool = False
    """Whether the model was converted, so that `problems` has what only a conversion finds."""
    weights: WeightMatch | None = None
    """What a state_dict file would load into it."""
