"""The origin of an export: the opened model, its source graph, and the inputs that it is measured on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import fx, nn

from ...errors import InputError
from ..bundles.open_batch import settle_batch
from ..bundles.reference import Model, load_model
from ..files.model_file import ModelFile
from ..operators.weight_refusals import FOR_EXPORT, quantised_weight_of
from ..precision.upcast import came_in, half_type, upcast
from ..preprocessing.decision import PreprocessingDecision, known_preprocessing
from ..preprocessing.evidence import PreprocessingEvidence, evidence_of_file, evidence_of_inputs
from ..records.graph_steps import root_hooks
from ..records.image_size import check_image_size, image_shape, listed
from ..records.preprocessing import Preprocessing
from ..records.provenance import ChainLink
from ..records.record import ConversionRecord, Dim, TensorSpec, record_of
from ..runtime.batches.batch_by_shapes import fixed_batch_by_shapes
from ..runtime.batches.batch_proof import batched
from ..runtime.probes.given_probes import Probe, with_probes
from ..runtime.probes.open_sizes import closed_sizes, image_index
from ..runtime.probes.probing import probe_inputs, probe_pixels
from ..weights.module_edits import difference_from_source, unplaced_parameter
from ..weights.unfit_weights import refuse_half_weights
from ..weights.weight_match import WeightMatch
from ..weights.writing_back import check_source

__all__ = ["PROBES", "ExportOrigin", "measured_on", "open_origin"]

PROBES = 16
"""Number of random images to measure on when none are given."""


@dataclass(frozen=True)
class ExportOrigin:
    """The module to export, its preprocessing, and its source graph, if any."""

    name: str
    module: nn.Module
    decided: PreprocessingDecision | str
    """Its preprocessing, or why it is not known."""
    inputs: tuple[TensorSpec, ...]
    graph: ModelFile | None
    files: tuple[Path, ...]
    """Files of the model, which are never overwritten; a folder stands for everything in it."""
    chain: tuple[ChainLink, ...]
    batch: int | None = None
    """The only batch the module supports; None when it supports any."""
    weights: WeightMatch | None = None
    """What was loaded from a file over the model's own weights."""
    stored: ModelFile | None = None
    """The source file as it is stored, where that is in 16 bits or quantised and `module` computes in float32."""
    batch_note: str = ""
    """What is wrong with the open batch that the model declares; "" where nothing is."""
    changed: str = ""
    """Why the module no longer computes what its source graph does; "" where it does, or has no source graph."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """Its preprocessing, where it is known."""
        return None if isinstance(self.decided, str) else self.decided.preprocessing

    @property
    def preprocessing_origin(self) -> str:
        """Where it comes from, or why it is not known."""
        return self.decided if isinstance(self.decided, str) else self.decided.reason

    @property
    def measured_batch(self) -> int | None:
        """The batch at which module and source can be compared, where the source states one."""
        first = self.inputs[0].shape[:1] if self.inputs else ()
        return self.batch or next((size for size in first if isinstance(size, int)), None)

    def output_names(self, count: int) -> tuple[str, ...]:
        """Names for the `count` outputs of a re-export."""
        names = tuple(spec.name for spec in self.record.outputs) if self.record is not None else ("embedding",)
        names = getattr(self.module, "output_names", names)
        return names if len(names) == count else tuple(f"output_{index}" for index in range(count))

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names for the inputs of a re-export."""
        return tuple(spec.name for spec in self.inputs) or ("images",)

    def required_preprocessing(self) -> Preprocessing:
        """The preprocessing.

        Raises:
            InputError: it is not known.
        """
        if isinstance(self.decided, str):
            raise InputError(f"{self.name}: {self.decided}")
        return self.decided.preprocessing

    def check_unchanged(self) -> None:
        """Check that all steps used one version of the source.

        Raises:
            InputError: one of its files changed since it was opened.
        """
        for file in (self.graph, self.stored):
            if file is not None:
                file.check_unchanged()

    @property
    def record(self) -> ConversionRecord | None:
        """The record of a converted module."""
        return record_of(self.module)


def open_origin(
    model: str | Path | nn.Module,
    source: str | Path | onnx.ModelProto | None,
    preprocessing: Preprocessing | str | None,
    weights: str | Path | None = None,
) -> ExportOrigin:
    """Open a model reference, or a copy of a module together with the ONNX model it was converted from.

    A module of one's own may state its `export_name`, `output_names`, one per output, and `chain`, its provenance.
    `weights` is a state_dict file to load over the weights of a reference.

    Raises:
        InputError: the reference is not a model, exported already, in half precision or quantised; the preprocessing is
            of another size than the model; a converted module comes without its source, or with another one.
    """
    if isinstance(model, nn.Module):
        if weights is not None:
            raise InputError(f"{weights}: is loaded into a model that is opened; load it into the module before export")
        origin = _of_module(model, source, preprocessing)
    else:
        origin = _of_file(model, preprocessing, weights)
    refuse_half_weights(origin.module, origin.name, FOR_EXPORT)
    check_image_size(origin.name, origin.inputs, origin.preprocessing)
    return origin


def _of_module(
    model: nn.Module, source: str | Path | onnx.ModelProto | None, preprocessing: Preprocessing | str | None
) -> ExportOrigin:
    record = record_of(model)
    if record is None:
        name = str(getattr(model, "export_name", type(model).__name__.lower()))
        decided = known_preprocessing(evidence_of_inputs(name, ()), preprocessing)
        chain: tuple[ChainLink, ...] = getattr(model, "chain", ())
        return ExportOrigin(name, copy.deepcopy(model).eval(), decided, _image_spec(decided), None, (), chain)
    assert isinstance(model, fx.GraphModule)
    if root_hooks(model):
        raise InputError(
            f"export: the module of {record.source} has a forward hook of its own, which its graph does not show; "
            "remove the hook, or put what it does into the graph"
        )
    module = copy.deepcopy(model).eval()
    graph = None if source is None else ModelFile.of(source)
    files = graph.files if graph is not None else ()
    if graph is not None:
        check_source(record, graph)
    if graph is not None and came_in(record.chain) is not None and half_type(graph.outline) is not None:
        graph = upcast(graph)
    changed = unplaced_parameter(module) if graph is None else difference_from_source(module, graph)
    if graph is None and not changed:
        raise InputError(
            "export: give `source`, the ONNX model this module was converted from: its weights go back into that graph"
        )
    return ExportOrigin(
        name=record.source,
        module=module,
        decided=_decided(_evidence(record, graph), record.inputs, preprocessing),
        inputs=record.inputs,
        graph=None if changed else graph,
        files=files,
        chain=record.chain,
        batch=fixed_batch_by_shapes(module, record.inputs),
        changed=changed,
    )


def _evidence(record: ConversionRecord, graph: ModelFile | None) -> PreprocessingEvidence:
    """What a converted module shows: its record, else the graph that it came from, where that is given."""
    shown = evidence_of_inputs(record.source, record.inputs) if graph is None else evidence_of_file(graph)
    return replace(shown, label=record.source).stating(record.preprocessing, "stated by the module's record")


def _decided(
    evidence: PreprocessingEvidence, inputs: Sequence[TensorSpec], given: Preprocessing | str | None
) -> PreprocessingDecision | str:
    """The decision, or why there is none; a given preprocessing of another size is refused first."""
    if isinstance(given, Preprocessing):
        check_image_size(evidence.label, inputs, given)
    return known_preprocessing(evidence, given)


def _of_file(model: str | Path, preprocessing: Preprocessing | str | None, weights: str | Path | None) -> ExportOrigin:
    opened = load_model(model, weights)
    if opened.kind in ("torchscript", "exported"):
        raise InputError(f"{model}: is exported already; export from the bundle, run folder or ONNX file it came from")
    file = opened.file
    quantised = file if file is not None and quantised_weight_of(file.outline) is not None else None
    inputs = opened.inputs if opened.record is not None else ()
    decided = _decided(replace(opened.evidence(), label=opened.name), inputs, preprocessing)
    settled = settle_batch(opened)
    return ExportOrigin(
        name=opened.name,
        module=opened.module,
        decided=decided,
        inputs=inputs or _image_spec(decided),
        graph=opened.source(),
        stored=opened.stored or quantised,
        files=_files(opened),
        chain=opened.chain,
        batch=settled.batch,
        batch_note=settled.note,
        weights=opened.weights,
    )


def _files(model: Model) -> tuple[Path, ...]:
    file = model.stored or model.file
    if file is not None:
        return file.files
    return (model.path,) if model.path is not None else ()


def _image_spec(decided: PreprocessingDecision | str) -> tuple[TensorSpec, ...]:
    if isinstance(decided, str):
        return ()
    return (TensorSpec("images", "float32", ("batch", *image_shape(decided.preprocessing))),)


def measured_on(
    origin: ExportOrigin, given: NDArray[Any] | None, probes: Mapping[str, Probe] | None = None
) -> tuple[NDArray[np.uint8] | None, tuple[NDArray[Any], ...]]:
    """Pixels, where they are known, and the input arrays of the network.

    The image input gets `given` or random images; the others get what `probes` states, else random numbers.

    Raises:
        InputError: neither inputs nor a preprocessing are known, a probe does not fit, or the given inputs are empty or
            of another shape.
    """
    preprocessing = origin.preprocessing
    image = image_index(origin.inputs) if len(origin.inputs) > 1 else 0
    pixels: NDArray[np.uint8] | None = None
    images: NDArray[Any] | None = None
    if given is not None:
        if image is None:
            names = ", ".join(spec.name for spec in origin.inputs)
            raise InputError(
                f"{origin.name}: which of its inputs ({names}) is the image is not known; leave images out"
            )
        pixels, images = _given(origin, given, origin.inputs[image] if origin.inputs else None)
    elif preprocessing is not None and image is not None and len(origin.inputs[image].shape) == 4:
        pixels = probe_pixels(preprocessing, PROBES)
        images = preprocessing.normalise(pixels).astype(origin.inputs[image].dtype, copy=False)
    if images is not None and len(origin.inputs) <= 1:
        return pixels, with_probes(origin.inputs, (images,), probes or {}) if probes else (images,)
    if not origin.inputs:
        raise InputError(f"{origin.name}: its inputs are not known; give inputs or a preprocessing")
    closed: Sequence[TensorSpec] = closed_sizes(origin.inputs, preprocessing, probes)
    if images is not None and image is not None:
        closed = _following(closed)
    arrays = list(probe_inputs(closed, PROBES if images is None else len(images)))
    if images is not None and image is not None:
        arrays[image] = images
    return pixels, with_probes(origin.inputs, arrays, probes or {})


def _following(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Inputs with a row per image get as many rows as there are images, though the file fixes how many at a time."""
    rows = batched(specs)
    return [
        replace(spec, shape=("batch", *spec.shape[1:])) if follows else spec
        for spec, follows in zip(specs, rows, strict=True)
    ]


def _given(
    origin: ExportOrigin, given: NDArray[Any], spec: TensorSpec | None
) -> tuple[NDArray[np.uint8] | None, NDArray[Any]]:
    if given.ndim == 0 or len(given) == 0:
        raise InputError("export: the inputs hold no image, so nothing would be measured; give one or more")
    if given.dtype != np.uint8 or (spec is not None and spec.dtype == "uint8"):
        if spec is not None:
            _check_shape(f"{origin.name}: input {spec.name!r}", spec.shape, given.shape)
        return None, np.ascontiguousarray(given, dtype=None if spec is None else spec.dtype)
    preprocessing = origin.preprocessing
    if preprocessing is None:
        raise InputError(f"{origin.name}: pixels were given, but its preprocessing is not known; state it")
    shape = ("batch", preprocessing.height, preprocessing.width, preprocessing.channels)
    _check_shape(f"{origin.name}: pixels", shape, given.shape)
    normalised = preprocessing.normalise(given)
    return given, normalised if spec is None else normalised.astype(spec.dtype, copy=False)


def _check_shape(label: str, expected: Sequence[Dim], got: Sequence[int]) -> None:
    """Check every fixed size except the batch."""
    fixed = zip(expected[1:], got[1:], strict=False)
    if len(expected) != len(got) or any(isinstance(size, int) and size != found for size, found in fixed):
        raise InputError(f"{label}: expected {listed(('batch', *expected[1:]))}, got {listed(got)}")
