"""The options of `export`, each with its meaning; combinations with no effect are refused before any work."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import onnx
from numpy.typing import NDArray

from ...errors import InputError, nearest
from ..passes.batch import Batch
from ..passes.simplification import Simplifier
from ..passes.targets import check_precision
from ..precision.half import HalfConverter
from ..precision.int8_ranges import CalibrationMethod
from ..records.preprocessing import Preprocessing
from ..runtime.parity import check_gates
from ..runtime.probes.given_probes import Probe

__all__ = ["ExportKeywords", "ExportOptions", "Format", "MeasuredInputs", "Precision"]

Format = Literal["onnx", "torchscript", "pt2"]
Precision = Literal["fp16", "bf16", "int8"]
MeasuredInputs = NDArray[Any] | Callable[[Preprocessing], NDArray[np.uint8]]
"""Images, or a function that reads them as uint8 pixels [N, H, W, C] for the model's preprocessing."""

_READ_WITH: Mapping[str, tuple[Precision, ...]] = {
    "min_cosine": ("fp16", "bf16", "int8"),
    "keep_float32": ("fp16", "bf16", "int8"),
    "keep_io_types": ("fp16", "bf16"),
    "fp16_converter": ("fp16",),
    "calibration": ("int8",),
    "quantiser": ("int8",),
}
"""Options of the step that reduces the precision, and the precisions whose step reads them."""
_ONNX_ONLY = ("batch", "embed_preprocessing", "simplifier", "target", "strip_metadata", *_READ_WITH)
_ON_THE_COMMAND_LINE = {"keep_io_types": "half-io"}
"""Field -> name on the command line, where that is not the field's name with dashes."""


@dataclass(frozen=True)
class ExportOptions:
    """How a model becomes a file.

    Raises:
        InputError: options exclude each other, or one has no effect with the others; a gate is no such number.
    """

    fp16: bool = False
    """Convert to float16; nodes that overflow or lose too much stay in float32."""
    bf16: bool = False
    """The same with bfloat16, at opset 22."""
    int8: bool = False
    """Quantise, calibrated on `inputs`, which must then be given."""
    fp32: bool = False
    """Stay in float32, also where the model came in float16 or bfloat16; by default it goes back to what it came in."""
    format: Format = "onnx"
    """"onnx", "pt2" (torch.export) or "torchscript" (legacy)."""
    batch: Batch | None = None
    """The batch the file supports, or "dynamic"; None: the source's (dynamic for a re-export)."""
    embed_preprocessing: bool = False
    """Take uint8 pixels [N, H, W, C] and return L2-normalised embeddings."""
    fold_padded: bool = False
    """Also fold BatchNorm before zero-padded layers, which leaves an offset; the graph is then no longer the source's,
    so it is re-exported."""
    simplifier: Simplifier | Literal["auto", "none"] = "auto"
    """"onnxslim", "onnxsim", "none", or "auto": onnxslim, unless the graph is the source's own."""
    keep_io_types: bool = True
    """With fp16 and bf16, keep float32 inputs and outputs."""
    fp16_converter: HalfConverter = "rtool"
    """Who converts to float16; "onnxconverter-common" passes the same gate, or the export fails."""
    keep_float32: Collection[str] = ()
    """Names of nodes that stay in float32, as from an earlier manifest."""
    calibration: CalibrationMethod = "minmax"
    """How int8 ranges come from the calibration images."""
    quantiser: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None
    """With int8, what makes the quantised graph of the float32 one, such as training; measured and gated alike."""
    target: str | None = None
    """What the file must be readable by, see `targets`."""
    strip_metadata: bool = False
    """Remove exporters' stack traces and file paths."""
    tolerance: float = 1e-5
    """Largest relative error of every float32 step; ONNX Runtime and torch sum in different orders."""
    min_cosine: float | None = None
    """Gate of the step that reduces the precision; default 0.9999 for fp16, 0.999 for bf16, 0.99 for int8."""
    inputs: MeasuredInputs | None = None
    """Images to measure on, preprocessed float32 or uint8 pixels [N, H, W, C]; default are random ones."""
    probes: Mapping[str, Probe] = field(default_factory=dict)
    """Input name -> "zeros", "ones" or an array [N, ...]: what inputs beside the image are measured with, instead of
    random numbers."""
    source: str | Path | onnx.ModelProto | None = None
    """The ONNX model a converted module came from, where such a module is exported. Where the module was edited and is
    no longer what that graph computes, it is re-exported, and the step says why."""
    preprocessing: Preprocessing | str | None = None
    """Instead of the model's own: a preprocessing, or what `--preprocessing` takes."""
    weights: str | Path | None = None
    """A state_dict file to load over the weights of a model reference before the export."""
    overwrite: bool = False
    """Replace a file that is already there."""

    def __post_init__(self) -> None:
        check_gates("export --tolerance", max_rel=self.tolerance)
        check_gates("export --min-cosine", min_cosine=self.min_cosine)
        precision = self.precision
        if self.fp16_converter not in get_args(HalfConverter):
            known = nearest(self.fp16_converter, get_args(HalfConverter))
            raise InputError(f"export: unknown converter {self.fp16_converter!r}; {known}")
        self._check_format(precision)
        for name in self._given():
            precisions = _READ_WITH.get(name)
            if precisions is not None and precision not in precisions:
                ways = " or ".join(f"--{entry}" for entry in precisions)
                raise InputError(
                    f"export: {_flag(name)} is for reduced precision only; give it with {ways}, or leave it out"
                )
        if precision == "int8" and self.inputs is None:
            raise InputError("export: int8 is calibrated on real images; give inputs, or --calibrate DATA")
        if precision == "int8" and self.embed_preprocessing:
            raise InputError(
                "export: --int8 is calibrated on the network's own inputs, not on pixels; leave out "
                "--embed-preprocessing"
            )
        if self.target is not None:
            check_precision(self.target, precision)

    @property
    def precision(self) -> Precision | None:
        """The reduced precision; None for float32.

        Raises:
            InputError: several were given.
        """
        chosen: list[Precision] = [name for name in get_args(Precision) if getattr(self, name)]
        given = [*(["fp32"] if self.fp32 else []), *chosen]
        if len(given) > 1:
            raise InputError(f"export: --{given[0]} and --{given[1]} exclude each other; choose one")
        return chosen[0] if chosen else None

    def _given(self) -> list[str]:
        """The options for ONNX graphs that do not have their default value."""
        defaults = {entry.name: entry.default for entry in fields(self)}  # of those in `_ONNX_ONLY`, each has one
        return [name for name in _ONNX_ONLY if not _is_default(getattr(self, name), defaults[name])]

    def _check_format(self, precision: Precision | None) -> None:
        if self.format not in get_args(Format):
            raise InputError(f"export: unknown format {self.format!r}; {nearest(self.format, get_args(Format))}")
        onnx_only = ([precision] if precision is not None else []) + [*self._given()]
        if self.format != "onnx" and onnx_only:
            raise InputError(
                f"export: {_flag(onnx_only[0])} rewrites ONNX graphs; it does not go with --format {self.format}"
            )


def _is_default(value: Any, default: Any) -> bool:
    """Whether an option has its default value; an empty collection counts as the default of a collection."""
    return value == default or (isinstance(default, tuple) and not value)


def _flag(name: str) -> str:
    return f"--{_ON_THE_COMMAND_LINE.get(name, name.replace('_', '-'))}"


class ExportKeywords(TypedDict, total=False):
    """`ExportOptions` as keywords, for type checkers."""

    fp16: bool
    bf16: bool
    int8: bool
    fp32: bool
    format: Format
    batch: Batch | None
    embed_preprocessing: bool
    fold_padded: bool
    simplifier: Simplifier | Literal["auto", "none"]
    keep_io_types: bool
    fp16_converter: HalfConverter
    keep_float32: Collection[str]
    calibration: CalibrationMethod
    quantiser: Callable[[onnx.ModelProto], onnx.ModelProto] | None
    target: str | None
    strip_metadata: bool
    tolerance: float
    min_cosine: float | None
    inputs: MeasuredInputs | None
    probes: Mapping[str, Probe]
    source: str | Path | onnx.ModelProto | None
    preprocessing: Preprocessing | str | None
    weights: str | Path | None
    overwrite: bool
