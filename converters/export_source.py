"""What an export starts from: the opened model, the graph it came from, and the inputs it is measured on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from ..errors import InputError
from .bundle import source_graph
from .loading import parse_model
from .preprocessing import Preprocessing
from .preprocessing_guess import find_preprocessing
from .probing import probe_inputs, probe_pixels
from .provenance import ChainLink
from .record import ConversionRecord, TensorSpec
from .reference import Model, load_model

__all__ = ["PROBES", "ExportSource", "measured_on", "open_export_source"]

PROBES = 16
"""Random images measured on when none are given."""


@dataclass(frozen=True)
class ExportSource:
    """What is exported: the module, its preprocessing, and the graph it came from, if any."""

    name: str
    module: nn.Module
    preprocessing: Preprocessing | None
    inputs: tuple[TensorSpec, ...]
    graph: onnx.ModelProto | Path | None
    path: Path | None
    chain: tuple[ChainLink, ...]

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names for the outputs of an export anew."""
        return tuple(spec.name for spec in self.record.outputs) if self.record is not None else ("embedding",)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names for the inputs of an export anew."""
        return tuple(spec.name for spec in self.inputs) or ("images",)

    @property
    def record(self) -> ConversionRecord | None:
        """The record of a converted module."""
        return _record(self.module)


def open_export_source(
    model: str | Path | nn.Module, source: str | Path | onnx.ModelProto | None, preprocessing: Preprocessing | None
) -> ExportSource:
    """Open a model reference, or take a module and the ONNX model it was converted from.

    Raises:
        InputError: the reference is no model, or exported already; a converted module comes without its source.
    """
    if isinstance(model, nn.Module):
        record = _record(model)
        if record is not None and source is None:
            raise InputError("export: give `source`, the ONNX model this module was converted from")
        known = preprocessing or (record.preprocessing if record is not None else None)
        graph = Path(source) if isinstance(source, str) else source
        return ExportSource(
            name=record.source if record is not None else type(model).__name__.lower(),
            module=copy.deepcopy(model).eval(),
            preprocessing=known,
            inputs=record.inputs if record is not None else _image_spec(known),
            graph=graph if record is not None else None,
            path=graph if isinstance(graph, Path) else None,
            chain=record.chain if record is not None else (),
        )
    opened = load_model(model)
    if opened.kind in ("torchscript", "exported"):
        raise InputError(f"{model}: is exported already; export from the bundle, run folder or ONNX file it came from")
    known = preprocessing or opened.preprocessing or _found(opened)
    inputs = opened.inputs or _image_spec(known)
    return ExportSource(opened.name, opened.module, known, inputs, _source_graph(opened), opened.path, opened.chain)


def _found(model: Model) -> Preprocessing | None:
    """What an ONNX file states about its preprocessing, or what the shape of its input suggests."""
    if model.kind != "onnx" or model.path is None:
        return None
    metadata = {entry.key: entry.value for entry in parse_model(model.path).metadata_props}
    found = find_preprocessing(model.inputs, metadata)
    return found.preprocessing if found is not None else None


def _source_graph(model: Model) -> onnx.ModelProto | Path | None:
    if model.record is None or model.path is None:
        return None
    return source_graph(model.path) if model.kind == "bundle" else model.path


def _image_spec(preprocessing: Preprocessing | None) -> tuple[TensorSpec, ...]:
    if preprocessing is None:
        return ()
    size = (preprocessing.channels, preprocessing.height, preprocessing.width)
    return (TensorSpec("images", "float32", ("batch", *size)),)


def measured_on(
    origin: ExportSource, given: NDArray[Any] | None
) -> tuple[NDArray[np.uint8] | None, tuple[NDArray[Any], ...]]:
    """Pixels (where known) and the arrays the network takes.

    Raises:
        InputError: neither inputs nor a preprocessing are known.
    """
    preprocessing = origin.preprocessing
    if given is not None and given.dtype != np.uint8:
        return None, (np.ascontiguousarray(given),)
    if given is None and (preprocessing is None or not _is_image(origin.inputs, preprocessing)):
        if not origin.inputs:
            raise InputError(f"{origin.name}: its inputs are not known; give inputs or a preprocessing")
        return None, probe_inputs(origin.inputs, PROBES)
    if preprocessing is None:
        raise InputError(f"{origin.name}: pixels were given, but its preprocessing is not known; state it")
    pixels = probe_pixels(preprocessing, PROBES) if given is None else given
    return pixels, (preprocessing.normalise(pixels),)


def _is_image(inputs: Sequence[TensorSpec], preprocessing: Preprocessing) -> bool:
    size = (preprocessing.channels, preprocessing.height, preprocessing.width)
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        return False
    sizes = zip(inputs[0].shape[1:], size, strict=True)
    return preprocessing.layout == "nhwc" or all(not isinstance(got, int) or got == want for got, want in sizes)


def _record(module: nn.Module) -> ConversionRecord | None:
    record = getattr(module, "meta", {}).get("rtool")
    return record if isinstance(record, ConversionRecord) else None
