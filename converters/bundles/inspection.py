"""`inspect`: the contents of a model file, and the problems that prevent training it.

Nothing is written. The file is converted on the way and the result discarded, so that problems and BatchNorms that
cannot be folded are found by trying.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from torch import nn

from ...errors import InputError, RtoolError, UnsupportedOperatorsError
from ..batchnorm.fold import KeptBatchNorm, fold_batchnorm
from ..files.model_file import ModelFile, source_of
from ..lowering.canonical_form import canonicalise
from ..lowering.conversion import onnx_to_torch, tensor_specs
from ..lowering.lower import lower
from ..lowering.names import is_generated
from ..passes.graph_costs import Costs, graph_costs
from ..passes.input_normalisation import find_input_normalisation
from ..passes.shape_inference import infer_shapes
from ..records.batch_proof import BatchProof, proof_of_bundle
from ..records.metadata import stated_folds
from ..records.preprocessing import Preprocessing
from ..records.preprocessing_guess import find_preprocessing
from ..records.provenance import ChainLink, chain_of_bundle, chain_of_metadata
from ..records.record import ConversionRecord, TensorSpec, source_link
from ..runtime.file_batch import stated_proof
from ..zoo.architecture_guess import guess_architecture
from .bundle import is_bundle, load_bundle
from .reference import TORCH_SUFFIXES, load_model

__all__ = ["BatchNorms", "Inspection", "inspect"]

_RULE = "pkg.onnxscript.rewriter.rule_name"


@dataclass(frozen=True)
class BatchNorms:
    """Numbers of BatchNorms: fused into layers, present, and those that cannot be folded."""

    fused: int
    """Convolutions that had a BatchNorm, according to names and metadata."""
    present: int
    unfoldable: tuple[KeptBatchNorm, ...]
    restored: int = 0
    """Restored ones of a bundle."""


@dataclass(frozen=True)
class Inspection:
    """Everything that `rtool inspect` prints; costs are per image."""

    name: str
    kind: str
    size_bytes: int
    sha256: str | None
    producer: str
    ir_version: int | None
    opsets: Mapping[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: int | str
    """The fixed batch, or "dynamic", as the model declares it."""
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
    batchnorms: BatchNorms | None
    preprocessing: Preprocessing | None
    preprocessing_origin: str | None
    architecture: str | None
    problems: tuple[str, ...]
    chain: tuple[ChainLink, ...]
    """The provenance of the model, oldest link first."""
    batch_proof: BatchProof | None = None
    """The recorded proof that a batch is its images one by one, for these very bytes."""


def inspect(reference: str | Path) -> Inspection:
    """Inspect an ONNX file, a bundle or any other model reference.

    Raises:
        InputError: the reference names nothing that can be opened.

    Examples:
        >>> found = rtool.inspect("model.onnx")
        >>> found.batch, found.parameters, found.operators
        ('dynamic', 112, {'Conv': 1, 'Relu': 1, 'ReduceMean': 1})
    """
    path = Path(reference)
    if path.is_dir() and is_bundle(path):
        return _inspect_bundle(path)
    if path.suffix == ".onnx" or (path.is_file() and path.suffix not in TORCH_SUFFIXES):
        file = ModelFile.read(path)
        return _inspect_graph(file, path.name, "onnx", file.size)
    return _inspect_module(str(reference))


def _inspect_bundle(path: Path) -> Inspection:
    bundle = load_bundle(path)
    size = sum(_size(file) for file in path.iterdir())
    chain = chain_of_bundle(bundle.metadata)
    if bundle.record is None:
        return replace(_of_module(bundle.module, path.name, "bundle", size, bundle.preprocessing), chain=chain)
    found = _inspect_graph(bundle.source(), path.name, "bundle", size)
    return replace(
        found,
        sha256=bundle.record.sha256,
        batch_proof=proof_of_bundle(path, bundle.metadata),
        parameters=_trainable(bundle.module),
        buffers=_fixed(bundle.module),
        batchnorms=_restored(found.batchnorms, len(bundle.record.restored)),
        chain=chain,
        preprocessing=bundle.preprocessing,
        preprocessing_origin="stored in the bundle" if bundle.preprocessing else None,
    )


def _inspect_module(reference: str) -> Inspection:
    model = load_model(reference)
    size = _size(model.path) if model.path is not None and model.path.is_file() else 0
    found = _of_module(model.module, model.name, model.kind, size, model.preprocessing)
    if model.kind != "zoo" and model.preprocessing is not None:
        found = replace(found, preprocessing_origin="stated in the file")
    if model.kind == "exported":
        calls = Counter(
            str(node.target).removeprefix("aten.").partition(".")[0]
            for node in getattr(model.module, "graph").nodes  # noqa: B009
            if node.op == "call_function" and str(node.target).startswith("aten.")
        )
        found = replace(found, operators=dict(calls.most_common()))
    return replace(found, inputs=model.inputs, batch=model.batch or "dynamic", chain=model.chain)


def _of_module(module: nn.Module, name: str, kind: str, size: int, preprocessing: Preprocessing | None) -> Inspection:
    leaves = (layer for layer in module.modules() if not list(layer.children()))
    layers = Counter(str(getattr(layer, "original_name", type(layer).__name__)) for layer in leaves)
    present = sum(count for layer, count in layers.items() if "BatchNorm" in layer)
    return Inspection(
        name=name,
        kind=kind,
        size_bytes=size,
        sha256=None,
        producer="torch",
        ir_version=None,
        opsets={},
        inputs=(),
        outputs=(),
        batch="dynamic",
        fixed_batch_places=(),
        operators=dict(layers.most_common()),
        parameters=_trainable(module),
        buffers=_fixed(module),
        macs=None,
        activations=None,
        precision="/".join(sorted({str(p.dtype).removeprefix("torch.") for p in module.parameters()})),
        batchnorms=BatchNorms(0, present, ()),
        preprocessing=preprocessing,
        preprocessing_origin="of the architecture" if preprocessing else None,
        architecture=None,
        problems=(),
        chain=(),
    )


def _trainable(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _fixed(module: nn.Module) -> int:
    """The number of floats in buffers; counters are not part of the function."""
    return sum(buffer.numel() for buffer in module.buffers() if buffer.is_floating_point())


def _restored(found: BatchNorms | None, number: int) -> BatchNorms | None:
    return None if found is None else replace(found, restored=number, fused=max(found.fused - number, 0))


def _inspect_graph(file: ModelFile, name: str, kind: str, size: int) -> Inspection:
    model = file.ir_model()
    inputs, outputs = tensor_specs(model.graph.inputs), tensor_specs(model.graph.outputs)
    inputs = tuple(spec for spec in inputs if spec.name not in model.graph.initializers)
    operators = Counter(node.op_type for node in model.graph)
    problems, unfoldable = _try_conversion(file)
    batchnorms = BatchNorms(
        _count_fused(model.graph, stated_folds(model.metadata_props)),
        operators.get("BatchNormalization", 0),
        unfoldable,
    )
    work = model.clone()
    try:
        canonicalise(work)
        places = _fixed_batch(work.graph)
        costs: Costs | None = _costs(work, name)
        architecture = guess_architecture(work.graph, operators)
    except RtoolError as error:
        problems.append(str(error))
        places, costs, architecture = (), None, None
    found = find_preprocessing(inputs, file.metadata)
    normalisation = find_input_normalisation(work.graph)
    if normalisation is not None and (found is None or found.is_guess):
        height, width = inputs[0].shape[2:]
        if isinstance(height, int) and isinstance(width, int):
            found = normalisation.preprocessing(height, width)
    statistics = _count_statistics(work.graph)
    return Inspection(
        name=name,
        kind=kind,
        size_bytes=size,
        sha256=file.source.sha256,
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
        ir_version=model.ir_version,
        opsets=dict(model.graph.opset_imports),
        inputs=inputs,
        outputs=outputs,
        batch=_batch(inputs),
        batch_proof=stated_proof(file) if kind == "onnx" else None,
        fixed_batch_places=places,
        operators=dict(operators.most_common()),
        parameters=_count(work.graph) - statistics,
        buffers=statistics,
        macs=costs.macs if costs else None,
        activations=costs.activations if costs else None,
        precision=_precision(work.graph),
        batchnorms=batchnorms,
        preprocessing=found.preprocessing if found else None,
        preprocessing_origin=found.origin if found else _origin_in_graph(inputs),
        architecture=architecture,
        problems=tuple(problems),
        chain=chain_of_metadata(model.metadata_props) or (_source_link(model),),
    )


def _origin_in_graph(inputs: Sequence[TensorSpec]) -> str | None:
    """Where the preprocessing is, for a graph that takes pixels; None for others."""
    pixels = len(inputs) == 1 and inputs[0].dtype == "uint8"
    return "in the graph, which takes uint8 pixels" if pixels else None


def _source_link(model: ir.Model) -> ChainLink:
    """The first link of the chain, for a file that states no provenance."""
    source, producer = source_of(model), " ".join(filter(None, (model.producer_name, model.producer_version)))
    opset = model.graph.opset_imports.get("", 0)
    return source_link(ConversionRecord(source.name, source.digest, opset, producer, (), ()))


def _try_conversion(file: ModelFile) -> tuple[list[str], tuple[KeptBatchNorm, ...]]:
    """Problems that prevent the conversion; if there are none, the BatchNorms that cannot be folded."""
    try:
        module = onnx_to_torch(file)
    except RtoolError as error:
        return [str(error)], ()
    return [], fold_batchnorm(module).kept


def _batch(inputs: tuple[TensorSpec, ...]) -> int | str:
    first = inputs[0].shape if inputs else ()
    return first[0] if first and isinstance(first[0], int) else "dynamic"


def _fixed_batch(graph: ir.Graph) -> tuple[str, ...]:
    """Graph inputs with a fixed batch, and nodes with that number in a constant shape."""
    places = []
    batches = set()
    for value in graph.inputs:
        if value.shape is not None and len(value.shape) > 1 and isinstance(value.shape[0], int):
            batches.add(value.shape[0])
            places.append(f"input '{value.name}'")
    for node in graph:
        target = node.inputs[1] if node.op_type in ("Reshape", "Expand") and len(node.inputs) > 1 else None
        if target is None or target.const_value is None or not batches:
            continue
        shape = np.asarray(target.const_value.numpy()).reshape(-1)
        if shape.size > 1 and int(shape[0]) in batches:
            places.append(f"node '{node.name}' ({node.op_type} to {shape.tolist()})")
    return tuple(places)


def _costs(model: ir.Model, label: str) -> Costs:
    for value in model.graph.inputs:
        if value.shape is not None and len(value.shape) and not isinstance(value.shape[0], int):
            value.shape = ir.Shape([1, *value.shape[1:]])
    infer_shapes(model, label)
    with contextlib.suppress(UnsupportedOperatorsError):  # reported elsewhere; lowering completes the shapes
        lower(model, label)
    costs = graph_costs(model.graph)
    batch = next((v.shape[0] for v in model.graph.inputs if v.shape is not None and len(v.shape)), 1)
    images = batch if isinstance(batch, int) and batch > 0 else 1
    return Costs(*(None if cost is None else cost // images for cost in (costs.macs, costs.activations)))


def _count_fused(graph: ir.Graph, stated: Mapping[str, str]) -> int:
    """The number of layers that had a BatchNorm: metadata states it, and TorchScript renames their weights."""
    fused = 0
    for node in graph:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
            continue
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        renamed = weight is not None and node.op_type != "Gemm" and is_generated(weight.name or "")
        said = weight is not None and weight.name in stated
        fused += said or "FuseBatchNorm" in node.metadata_props.get(_RULE, "") or renamed
    return fused


def _floats(graph: ir.Graph) -> list[ir.TensorProtocol]:
    tensors = [value.const_value for value in graph.initializers.values() if value.uses()]
    return [tensor for tensor in tensors if tensor is not None and tensor.dtype.is_floating_point()]


def _count(graph: ir.Graph) -> int:
    """The number of weight elements, without scalars, which are constants of formulas."""
    return sum(tensor.size for tensor in _floats(graph) if len(tensor.shape))


def _count_statistics(graph: ir.Graph) -> int:
    """The number of elements of running means and variances, each counted once."""
    values = {
        value.name: value.const_value.size
        for node in graph
        if node.op_type == "BatchNormalization"
        for value in node.inputs[3:5]
        if value is not None and value.const_value is not None
    }
    return sum(values.values())


def _precision(graph: ir.Graph) -> str:
    """The element types of the weights, most elements first."""
    sizes: Counter[str] = Counter()
    for tensor in _floats(graph):
        sizes[tensor.dtype.name.lower()] += tensor.size
    if any(node.op_type in ("DequantizeLinear", "QLinearConv") for node in graph):
        sizes["int8 (quantised)"] = 0
    return "/".join(name for name, _ in sizes.most_common()) or "no weights"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
