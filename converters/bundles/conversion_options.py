"""The options of `onnx2torch`, each with its meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from torch import Tensor

from ...errors import InputError
from ..passes.batch import Batch
from ..records.preprocessing import Preprocessing
from ..runtime.parity import check_gates
from ..runtime.probes.given_probes import Probe

__all__ = ["CalibrationBatches", "ConversionKeywords", "ConversionOptions"]

CalibrationBatches = Iterable[Tensor] | Callable[[Preprocessing], Iterable[Tensor]]
"""Preprocessed image batches float32 [N, C, H, W], or a function that gives them for the model's preprocessing."""


@dataclass(frozen=True)
class ConversionOptions:
    """How an ONNX file becomes a bundle.

    Raises:
        InputError: `restore_bn` without `calibrate`, or a tolerance that is not a number from 0 on.
    """

    restore_bn: bool = False
    """Put BatchNorm back behind the layers that an exporter fused it into; needs `calibrate`."""
    calibrate: CalibrationBatches | None = None
    """Images to measure the statistics of restored BatchNorms on."""
    calibration_state: str | Path | None = None
    """State file with the statistics of an interrupted calibration, from which the next run continues."""
    progress: Callable[[int], None] | None = None
    """Called with the number of calibration images seen."""
    weights: str | Path | None = None
    """A state_dict to load into the module after it was converted and checked: a fused one, or with `restore_bn` also
    that of the unfused original, by name."""
    allow_partial: bool = False
    """Accept `weights` that do not fill the module."""
    freeze: Sequence[str] = ()
    """Patterns of parameter paths that do not train, such as "conv1.*"."""
    learned: Sequence[str] = ()
    """Names in the file, or patterns such as "*.alpha", of single numbers that train although the file does not show
    that they were parameters. An exponent, a bound, a threshold or an epsilon is refused."""
    preprocessing: Preprocessing | str | None = None
    """Stored with the model: a preprocessing, or what `--preprocessing` takes; by default it is decided, see
    `preprocessing.decision`."""
    batch: Batch | None = None
    """"dynamic" or a number: rewrite the graph to this batch first, verified by `set_batch`; the bundle holds the
    rewritten graph. By default the file's."""
    probes: Mapping[str, Probe] = field(default_factory=dict)
    """Input name -> "zeros", "ones" or an array: instead of random numbers where the module is compared."""
    overwrite: bool = False
    """Replace a bundle that is already at the output."""
    tolerance: float = 1e-5
    """Largest relative error against ONNX Runtime, before and after restoring. Two correct float32 networks of a few
    hundred layers differ by less."""

    def __post_init__(self) -> None:
        check_gates("onnx2torch: tolerance", max_rel=self.tolerance)
        if self.restore_bn and self.calibrate is None:
            raise InputError("--restore-bn measures activations: give images with --calibrate DATA")


class ConversionKeywords(TypedDict, total=False):
    """`ConversionOptions` as keywords, for type checkers."""

    restore_bn: bool
    calibrate: CalibrationBatches | None
    calibration_state: str | Path | None
    progress: Callable[[int], None] | None
    weights: str | Path | None
    allow_partial: bool
    freeze: Sequence[str]
    learned: Sequence[str]
    preprocessing: Preprocessing | str | None
    batch: Batch | None
    probes: Mapping[str, Probe]
    overwrite: bool
    tolerance: float
