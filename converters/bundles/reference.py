"""Open every kind of MODEL: an ONNX file, a bundle, a run folder, `.pt`, `.pt2` or a zoo name.

Nothing is unpickled: a `.pt` must be TorchScript, a `.pt2` an exported program.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import onnx
from torch import fx, nn

from ...errors import InputError
from ..files.model_bytes import TORCHSCRIPT_SUFFIXES, refuse_served
from ..files.model_file import ModelFile
from ..files.torch_archives.programs import load_program
from ..files.torch_archives.scripts import load_script
from ..graphs.graph_view import GraphView
from ..lowering.conversion import onnx_to_torch
from ..precision.upcast import half_type, upcast
from ..preprocessing.evidence import (
    PreprocessingEvidence,
    evidence_of_file,
    evidence_of_inputs,
    evidence_of_view,
    stated_in_metadata,
)
from ..records.interface import INTERFACE_KEY, interface_of
from ..records.preprocessing import METADATA_KEY, Preprocessing
from ..records.provenance import CHAIN_KEY, ChainLink, chain_of_bundle, chain_of_metadata
from ..records.record import ConversionRecord, TensorSpec, record_of, require_record
from ..runtime.batches.batch_by_shapes import fixed_batch_by_shapes
from ..runtime.runners import OnnxRunner, Runner, TorchRunner
from ..runtime.triton import TritonRunner, refuse_weights
from ..weights.stripping import fill_weights
from ..weights.weight_match import WeightMatch
from ..zoo.facts import nothing_named
from ..zoo.registry import ZOO, architecture_preprocessing, build_architecture
from .bundle import Bundle, load_bundle, stripped_graph
from .bundle_info import bundle_name, is_bundle
from .loaded_weights import load_and_measure, weights_link
from .program_interface import program_interface

__all__ = ["Kind", "Model", "load_model", "open_runner", "resolve_run_folder"]

Kind = Literal["onnx", "bundle", "torchscript", "exported", "zoo"]


_METADATA = (METADATA_KEY, CHAIN_KEY, INTERFACE_KEY)
"""Keys of the metadata that `export` writes into torch files, to be read here."""

_CHANNELS = 3
"""Most channels of an image, so most numbers of a normalisation at the input."""

_CHECKPOINTS = ("checkpoints/best.rtool", "checkpoints/last.rtool")


@dataclass(frozen=True)
class Model:
    """An opened model; `module` is in eval mode."""

    name: str
    module: nn.Module
    preprocessing: Preprocessing | None
    """The one that is stored with it; None where it states none, see `evidence`."""
    kind: Kind
    path: Path | None = None
    exported_inputs: tuple[TensorSpec, ...] = ()
    """The inputs that a torch file states."""
    exported_outputs: tuple[TensorSpec, ...] = ()
    """The outputs that a torch file states."""
    chain: tuple[ChainLink, ...] = ()
    """Where it comes from, as far as it states."""
    file: ModelFile | None = None
    """The ONNX file, for a model of that kind; as float32 where it is stored in 16 bits."""
    stored: ModelFile | None = None
    """The ONNX file as it is stored, where that is in 16 bits."""
    bundle: Bundle | None = None
    """The bundle, for a model of that kind."""
    weights: WeightMatch | None = None
    """What was loaded over its own weights from a file."""

    @property
    def graph(self) -> onnx.GraphProto | None:
        """The graph that the module was converted from, without large weights; not to be edited."""
        if self.bundle is not None and self.bundle.stripped is not None:
            return self.bundle.stripped.graph
        return self.file.outline.graph if self.file is not None else None

    def source(self) -> ModelFile | None:
        """The graph that the module was converted from, with the weights of the module; None where there is none."""
        if self.bundle is not None and self.bundle.record is not None:
            return self.bundle.source()
        return self.file

    def stripped_source(self) -> onnx.ModelProto:
        """The source graph without its weights, for a later bundle of the module; it is small, so it may be kept.

        Raises:
            InputError: the model was not converted from ONNX.
        """
        if self.bundle is not None and self.bundle.stripped is not None:
            return self.bundle.stripped
        if self.file is None:
            raise InputError(f"{self.name}: was not converted from ONNX, so it has no source graph")
        return stripped_graph(self.file.proto(), require_record(self.module))

    def evidence(self, given: Collection[str] = ()) -> PreprocessingEvidence:
        """What the model shows of the preprocessing it expects, for `decide_preprocessing`.

        Its inputs in `given` have a value of their own.
        """
        if self.kind == "zoo":
            return evidence_of_inputs(self.name, ()).stating(self.preprocessing, "of the architecture")
        if self.bundle is not None and self.bundle.stripped is not None:
            return _of_bundle(self.bundle, self.name, given).stating(self.preprocessing, "stored in the bundle")
        if self.file is not None:
            return replace(evidence_of_file(self.file, given), label=str(self.path))
        where = "stored in the bundle" if self.kind == "bundle" else "stated in the file"
        inputs = self.exported_inputs if self.kind in ("torchscript", "exported") else ()
        return evidence_of_inputs(self.name, inputs, given).stating(self.preprocessing, where)

    @property
    def record(self) -> ConversionRecord | None:
        """The record of a converted model; None for zoo models and torch files."""
        return record_of(self.module)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, where they are known."""
        if self.record is not None:
            return self.record.inputs
        if self.exported_inputs:
            return self.exported_inputs
        if self.preprocessing is None:
            return ()
        size = self.preprocessing
        return (TensorSpec("images", "float32", ("batch", size.channels, size.height, size.width)),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, where they are known."""
        return self.exported_outputs if self.record is None else self.record.outputs

    @cached_property
    def batch(self) -> int | None:
        """The only batch the model supports: of an exported program, or of a graph with a constant that holds it."""
        if isinstance(self.module, fx.GraphModule) and self.record is not None:
            return fixed_batch_by_shapes(self.module, self.record.inputs)
        first = self.exported_inputs[0].shape[:1] if self.exported_inputs else ()
        return next((size for size in first if isinstance(size, int)), None)


def load_model(reference: str | Path, weights: str | Path | None = None) -> Model:
    """Open a model reference.

    Args:
        reference: what to open.
        weights: a state_dict file to load over the model's own weights. Of a zoo model it may have more than that, such
            as a classifier.

    Raises:
        InputError: it names nothing that exists, a model on a server, or a file that is not what its name says; or
            `weights` does not fit.

    Examples:
        >>> model = rtool.converters.load_model("model.onnx")
        >>> model.kind, type(model.module.conv).__name__
        ('onnx', 'Conv2d')
    """
    refuse_served(reference)
    model = _open(reference)
    return model if weights is None else _with_weights(model, weights)


def _with_weights(model: Model, weights: str | Path) -> Model:
    """The model, its module filled from a file."""
    if model.kind in ("torchscript", "exported"):
        raise InputError(f"{model.name}: its weights are part of its program; give the .onnx or bundle it came from")
    is_zoo = model.kind == "zoo"
    match = load_and_measure(
        model.module,
        weights,
        inputs=model.inputs,
        batch=model.batch,
        graph=model.graph,
        fresh=is_zoo,
        may_have_others=is_zoo,
        way_out=f"give weights of {model.name}",
    )
    chain = (*model.chain, weights_link(match))
    if model.record is not None:
        model.record.chain = chain
    return replace(model, chain=chain, weights=match)


def _open(reference: str | Path) -> Model:
    path = Path(reference)
    name = str(reference)
    if name in ZOO:
        chain = chain_of_bundle({"architecture": {"name": name}})
        preprocessing = architecture_preprocessing(name)
        return Model(name, build_architecture(name).eval(), preprocessing, "zoo", chain=chain)
    if path.is_dir():
        return _from_folder(path)
    if path.suffix == ".onnx":
        return _from_onnx(path)
    if not path.exists():
        raise nothing_named(name)
    if path.suffix in TORCHSCRIPT_SUFFIXES:
        script, stated = load_script(path, _METADATA)
        found, chain = stated_in_metadata(str(path), stated), chain_of_metadata(stated)
        inputs, outputs = interface_of(stated.get(INTERFACE_KEY), str(path))
        return Model(path.name, script.eval(), found, "torchscript", path, inputs, outputs, chain)
    if path.suffix == ".pt2":
        program, module, stated = load_program(path, _METADATA)
        found, chain = stated_in_metadata(str(path), stated), chain_of_metadata(stated)
        named, outputs = interface_of(stated.get(INTERFACE_KEY), str(path))
        inputs, _ = program_interface(program)
        if len(named) == len(inputs):
            inputs = tuple(replace(own, name=spec.name) for own, spec in zip(inputs, named, strict=True))
        return Model(path.name, module, found, "exported", path, inputs, outputs, chain)
    raise InputError(
        f"{path}: expected an .onnx file, a bundle, a run folder, TorchScript (.pt) or an exported program (.pt2); "
        "a state_dict (.pth) alone has no graph: give its .onnx with `rtool onnx2torch model.onnx --weights`"
    )


def open_runner(
    reference: str | Path, *, device: str = "cpu", threads: int | None = None, weights: str | Path | None = None
) -> Runner:
    """A runner for an ONNX file, bundle, run folder, `.pt`, `.pt2`, zoo name or `triton://host:port/model[/version]`.

    An ONNX file runs in ONNX Runtime, a served model where it is served, everything else in torch on `device`; so does
    an ONNX file with other `weights`, see `load_model`.

    Raises:
        InputError: the reference names nothing that can be opened.
        PlatformError: `device` cannot be used here, or no server answers.

    Examples:
        >>> runner = rtool.converters.open_runner("model.onnx")
        >>> [output.shape for output in runner.run(np.zeros((3, 3, 16, 8), np.float32))]
        [(3, 4)]
    """
    if str(reference).startswith("triton://"):
        refuse_weights(str(reference), weights)
        return TritonRunner.from_reference(str(reference))
    path = Path(reference)
    if path.suffix == ".onnx" and weights is None:
        return OnnxRunner(path, device, threads)
    model = load_model(reference, weights)
    return TorchRunner(
        model.module, inputs=model.inputs, outputs=model.outputs, device=device, name=model.name, batch=model.batch
    )


def resolve_run_folder(path: Path) -> Path | None:
    """The best checkpoint of a run folder, else its last; None when `path` is not a run folder."""
    return next((path / name for name in _CHECKPOINTS if is_bundle(path / name)), None)


def _from_onnx(path: Path) -> Model:
    """The module of an ONNX file; a file in 16 bits is converted from its upcast, which the chain says."""
    file = ModelFile.read(path)
    half = half_type(file.outline)
    in_16_bits, file = (None, file) if half is None else (file, upcast(file))
    module = onnx_to_torch(file)
    record = require_record(module)
    if half is not None:
        record.chain = (*record.chain, half.link)
    stated = stated_in_metadata(str(path), file.metadata)
    return Model(path.name, module, stated, "onnx", path, chain=record.chain, file=file, stored=in_16_bits)


def _from_folder(path: Path) -> Model:
    checkpoint = path if is_bundle(path) else resolve_run_folder(path)
    if checkpoint is None:
        raise InputError(
            f"{path}: expected a bundle (with bundle.json) or a run folder (with checkpoints/best.rtool), found "
            f"{_listing(path)}; give the .onnx file itself or convert it with `rtool onnx2torch`"
        )
    bundle = load_bundle(checkpoint)
    chain = chain_of_bundle(bundle.metadata)
    name = bundle_name(checkpoint)
    return Model(name, bundle.module, bundle.preprocessing, "bundle", checkpoint, chain=chain, bundle=bundle)


def _of_bundle(bundle: Bundle, name: str, given: Collection[str]) -> PreprocessingEvidence:
    """What the graph of a bundle shows, whatever its source stated; only weights of a few numbers are filled in."""
    proto = onnx.ModelProto()
    if bundle.stripped is not None and bundle.record is not None:
        proto.CopyFrom(bundle.stripped)
        weights = bundle.module.state_dict()
        fill_weights(proto, bundle.record.parameters, weights, str(bundle.path), largest=_CHANNELS)
    return evidence_of_view(GraphView.of(proto, name), name, {}, given)


def _listing(path: Path) -> str:
    names: Sequence[str] = sorted(entry.name for entry in path.iterdir())
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"
