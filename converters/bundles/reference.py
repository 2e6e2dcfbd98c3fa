"""Open every kind of MODEL: an ONNX file, a bundle, a run folder, `.pt`, `.pt2` or a zoo name.

Nothing is unpickled: a `.pt` must be TorchScript, a `.pt2` an exported program.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import onnx
import torch
from torch import fx, nn
from torch.export import ExportedProgram

from ...errors import InputError
from ..files.model_bytes import TORCHSCRIPT_SUFFIXES
from ..files.model_file import ModelFile
from ..files.torch_archives.programs import load_program
from ..files.torch_archives.scripts import load_script
from ..lowering.conversion import onnx_to_torch
from ..records.preprocessing import Preprocessing
from ..records.preprocessing_guess import METADATA_KEY, find_preprocessing
from ..records.provenance import CHAIN_KEY, ChainLink, chain_of_bundle, chain_of_metadata
from ..records.record import ConversionRecord, TensorSpec, record_of, require_record
from ..runtime.batch_by_shapes import fixed_batch_by_shapes
from ..runtime.runners import OnnxRunner, Runner, TorchRunner
from ..runtime.triton import TritonRunner
from ..zoo.facts import nothing_named
from ..zoo.registry import ZOO, architecture_preprocessing, build_architecture
from .bundle import Bundle, is_bundle, load_bundle, stripped_graph

__all__ = ["Kind", "Model", "load_model", "open_runner", "resolve_run_folder"]

Kind = Literal["onnx", "bundle", "torchscript", "exported", "zoo"]


_METADATA = (METADATA_KEY, CHAIN_KEY)
"""Keys of the metadata that `export` writes into torch files, to be read here."""

_CHECKPOINTS = ("checkpoints/best.rtool", "checkpoints/last.rtool")


_TIME = re.compile(r"\d{8}-\d{6}")
"""Start of the name of a run folder."""


@dataclass(frozen=True)
class Model:
    """An opened model; `module` is in eval mode."""

    name: str
    module: nn.Module
    preprocessing: Preprocessing | None
    kind: Kind
    path: Path | None = None
    exported_inputs: tuple[TensorSpec, ...] = ()
    """The inputs that an exported program states."""
    chain: tuple[ChainLink, ...] = ()
    """Where it comes from, as far as it states."""
    file: ModelFile | None = None
    """The ONNX file, for a model of that kind."""
    bundle: Bundle | None = None
    """The bundle, for a model of that kind."""

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
        return () if self.record is None else self.record.outputs

    @cached_property
    def batch(self) -> int | None:
        """The only batch the model supports: of an exported program, or of a graph with a constant that holds it."""
        if isinstance(self.module, fx.GraphModule) and self.record is not None:
            return fixed_batch_by_shapes(self.module, self.record.inputs)
        first = self.exported_inputs[0].shape[:1] if self.exported_inputs else ()
        return next((size for size in first if isinstance(size, int)), None)


def load_model(reference: str | Path) -> Model:
    """Open a model reference.

    Raises:
        InputError: it names nothing that exists, or a file that is not what its name says.

    Examples:
        >>> model = rtool.converters.load_model("model.onnx")
        >>> model.kind, type(model.module.conv).__name__
        ('onnx', 'Conv2d')
    """
    path = Path(reference)
    name = str(reference)
    if name in ZOO:
        chain = chain_of_bundle({"architecture": {"name": name}})
        preprocessing = architecture_preprocessing(name)
        return Model(name, build_architecture(name).eval(), preprocessing, "zoo", chain=chain)
    if path.is_dir():
        return _from_folder(path)
    if path.suffix == ".onnx":
        file = ModelFile.read(path)
        module = onnx_to_torch(file)
        record = require_record(module)
        return Model(path.name, module, record.preprocessing, "onnx", path, chain=record.chain, file=file)
    if not path.exists():
        raise nothing_named(name)
    if path.suffix in TORCHSCRIPT_SUFFIXES:
        script, stated = load_script(path, _METADATA)
        found, chain = _preprocessing(path, stated), chain_of_metadata(stated)
        return Model(path.name, script.eval(), found, "torchscript", path, chain=chain)
    if path.suffix == ".pt2":
        program, module, stated = load_program(path, _METADATA)
        found, chain = _preprocessing(path, stated), chain_of_metadata(stated)
        return Model(path.name, module, found, "exported", path, _exported_inputs(program), chain)
    raise InputError(
        f"{path}: expected an .onnx file, a bundle, a run folder, TorchScript (.pt) or an exported program (.pt2); "
        "a state_dict (.pth) alone has no graph: give its .onnx with `rtool onnx2torch model.onnx --weights`"
    )


def open_runner(reference: str | Path, *, device: str = "cpu", threads: int | None = None) -> Runner:
    """A runner for an ONNX file, bundle, run folder, `.pt`, `.pt2`, zoo name or `triton://host:port/model[/version]`.

    An ONNX file runs in ONNX Runtime, a served model where it is served, everything else in torch on `device`.

    Raises:
        InputError: the reference names nothing that can be opened.
        PlatformError: `device` cannot be used here, or no server answers.

    Examples:
        >>> runner = rtool.converters.open_runner("model.onnx")
        >>> [output.shape for output in runner.run(np.zeros((3, 3, 16, 8), np.float32))]
        [(3, 4)]
    """
    if str(reference).startswith("triton://"):
        return TritonRunner.from_reference(str(reference))
    path = Path(reference)
    if path.suffix == ".onnx":
        return OnnxRunner(path, device, threads)
    model = load_model(reference)
    return TorchRunner(
        model.module, inputs=model.inputs, outputs=model.outputs, device=device, name=model.name, batch=model.batch
    )


def resolve_run_folder(path: Path) -> Path | None:
    """The best checkpoint of a run folder, else its last; None when `path` is no run folder."""
    return next((path / name for name in _CHECKPOINTS if is_bundle(path / name)), None)


def _from_folder(path: Path) -> Model:
    checkpoint = path if is_bundle(path) else resolve_run_folder(path)
    if checkpoint is None:
        raise InputError(
            f"{path}: expected a bundle (with bundle.json) or a run folder (with checkpoints/best.rtool), found "
            f"{_listing(path)}; give the .onnx file itself or convert it with `rtool onnx2torch`"
        )
    bundle = load_bundle(checkpoint)
    chain = chain_of_bundle(bundle.metadata)
    name = _name_of(checkpoint)
    return Model(name, bundle.module, bundle.preprocessing, "bundle", checkpoint, chain=chain, bundle=bundle)


def _name_of(bundle: Path) -> str:
    """The bundle's own name; of a checkpoint, which is called `best` in every run, that of the run.

    The folder of a run is `output/NAME/TIME/`.
    """
    folder = bundle.absolute().parent
    if folder.name != "checkpoints":
        return bundle.name
    run = folder.parent.resolve()
    return run.parent.name if _TIME.match(run.name) and run.parent.name else run.name


def _listing(path: Path) -> str:
    names: Sequence[str] = sorted(entry.name for entry in path.iterdir())
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"


def _preprocessing(path: Path, stated: Mapping[str, str]) -> Preprocessing | None:
    try:
        found = find_preprocessing((), stated)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return found.preprocessing if found is not None else None


def _exported_inputs(program: ExportedProgram) -> tuple[TensorSpec, ...]:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    specs = []
    for name in program.graph_signature.user_inputs:
        value = values.get(str(name))
        if not isinstance(value, torch.Tensor):
            return ()
        sizes = (size if isinstance(size, int) else str(size) for size in value.shape[1:])
        first = value.shape[:1]
        batch = tuple(size if isinstance(size, int) else "batch" for size in first)
        specs.append(TensorSpec(str(name), str(value.dtype).removeprefix("torch."), (*batch, *sizes)))
    return tuple(specs)
