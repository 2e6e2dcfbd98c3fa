"""Write trained tensors into the ONNX graph they came from; everything else stays byte for byte.

No exporter is involved: nodes, names, metadata and unchanged weights are those of the source, so the trained model runs
wherever the source runs, equally fast. Restored BatchNorms are folded on a copy first. A weight that
did not change keeps its encoding; an untrained round trip gives back the same bytes.

Exporters and simplifiers merge weights that happen to be equal, also those of one node (the beta and the running mean
of a fresh BatchNorm are both zeros). Where such copies were trained apart, each place that reads one gets an
initializer of its own; so does a trained weight that is also a fixed argument, as the bound of a Clip, which keeps
what it was. These are the only cases in which a node's input is renamed.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import fx

from ...errors import InputError
from ..batchnorm.fold import fold_batchnorm
from ..files.atomic_file import check_file_output, serialised, write_atomically
from ..files.model_file import ModelFile
from ..graphs.stripped_weights import weight_tensors
from ..lowering.conversion import onnx_to_torch
from ..lowering.values import stored_tensor
from ..records.record import ConversionRecord, ParameterSource, require_record
from .module_edits import difference_from_conversion
from .stripping import DATA_FIELDS, inverse_transform
from .weight_readers import WeightReaders, accounted_reads, fixed_reads, stored_origins

__all__ = ["NoPlaceError", "check_source", "source_file", "write_back"]

_WAY_OUT = "`export` makes a new graph of it"
_NATIVE = (
    "BatchNormalization",
    "Conv",
    "ConvTranspose",
    "Gemm",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
)
"""Operators that become one layer of torch each."""
_INPUT_OF = {"weight": 1, "bias": 2, "running_mean": 3, "running_var": 4}
"""Which of their inputs a tensor of that layer is."""


class NoPlaceError(InputError):
    """A tensor of the module has no place in the source graph, so the module is not what that graph computes."""


def write_back(
    module: fx.GraphModule,
    source: onnx.ModelProto | ir.Model | ModelFile | str | Path,
    output: str | Path | None = None,
) -> onnx.ModelProto:
    """The source model with the tensors of `module`; also written to `output` when that is given.

    Neither `module` nor `source` is changed.

    Raises:
        InputError: `source` is another model, `module` was edited or has parts that the source graph has no place
            for, or `output` is the source file or holds weights of it.

    Examples:
        >>> module = rtool.converters.onnx_to_torch("model.onnx")
        >>> _ = module.conv.bias.data.fill_(1.0)
        >>> trained = rtool.converters.write_back(module, "model.onnx")
        >>> onnx.numpy_helper.to_array(trained.graph.initializer[1])
        array([1., 1., 1., 1.], dtype=float32)
    """
    file = source_file(source)
    if output is not None:
        check_file_output(Path(output), sources=file.files)
    record = require_record(module)
    check_source(record, file)
    edit = difference_from_conversion(module)
    if edit:
        raise NoPlaceError(
            f"{record.source}: the module was edited: {edit}; undo what was added for training, or {_WAY_OUT}"
        )
    proto = file.proto()
    tensors = _folded_tensors(module, record)
    _write(proto, record, tensors)
    if output is not None:
        write_atomically(Path(output), serialised(proto, str(output)))
    return proto


def check_source(record: ConversionRecord, file: ModelFile) -> None:
    """Compare a source file with the digest of the one a module was converted from; a model in memory has none.

    Raises:
        InputError: it is another file.
    """
    if file.path is None or record.sha256 is None:
        return
    digest = file.source.sha256
    if digest is not None and digest != record.sha256:
        raise InputError(
            f"{file.path}: is not the file this module was converted from ({record.source}, sha256 "
            f"{record.sha256[:12]}..., this one {digest[:12]}...); give the original file"
        )


def source_file(source: onnx.ModelProto | ir.Model | ModelFile | str | Path) -> ModelFile:
    """A source graph as a `ModelFile`.

    Raises:
        InputError: the file is missing or no ONNX model.
    """
    return ModelFile.of(ir.to_proto(source) if isinstance(source, ir.Model) else source)


def _folded_tensors(module: fx.GraphModule, record: ConversionRecord) -> dict[str, torch.Tensor]:
    """Parameters and buffers of `module` by path, restored BatchNorms folded into their layers."""
    restored = {entry.module for entry in record.restored}
    if restored:
        module = copy.deepcopy(module).eval()
        kept = fold_batchnorm(module, only=restored).kept
        if kept:
            reasons = "; ".join(f"{entry.batchnorm!r}: {entry.reason}" for entry in kept[:3])
            raise NoPlaceError(f"{record.source}: restored BatchNorms cannot be folded ({reasons}); {_WAY_OUT}")
    tensors = module.state_dict()
    return {name: tensors[name].detach().cpu() for name in record.parameters}


def _write(proto: onnx.ModelProto, record: ConversionRecord, tensors: Mapping[str, torch.Tensor]) -> None:
    stored = dict(weight_tensors(proto.graph))
    origins = stored_origins(proto.graph)
    computed = {name: source for name, source in record.parameters.items() if source.value not in origins}
    fixed = fixed_reads(proto, record, origins | {source.value: source.value for source in computed.values()})
    if computed:
        _replace_computed(proto, record, computed, tensors, fixed)
    mapped = [(name, source) for name, source in record.parameters.items() if name not in computed]
    written: dict[str, bytes] = {}
    # Weights themselves first, then what Identity nodes call them.
    for name, source in sorted(mapped, key=lambda entry: origins[entry[1].value] != entry[1].value):
        origin = origins[source.value]
        target = stored[origin]
        data = _source_bytes(tensors[name], source, target, name)
        before = written.get(origin, _current_bytes(target))
        if source.value == origin and origin not in written and (data == before or origin not in fixed):
            if data != before:
                _replace_data(target, data)
            written[origin] = data
        elif data != before:
            _give_own_initializer(proto, record, name, source.value, target, data, fixed.get(origin, Counter()))


def _source_bytes(tensor: torch.Tensor, source: ParameterSource, target: onnx.TensorProto, parameter: str) -> bytes:
    """The little-endian bytes of a parameter as its source tensor has them."""
    dims = tuple(target.dims)
    if tensor.numel() != int(np.prod(dims, dtype=np.int64)):
        raise InputError(
            f"weight '{source.value}': expected shape {list(dims)}, got {list(tensor.shape)} from {parameter!r}; "
            "the checkpoint is of another architecture"
        )
    weight = inverse_transform(tensor, source, dims)
    dtype = ir.DataType(target.data_type)
    converted = stored_tensor(weight, dtype, source.value)
    if tuple(weight.shape) != dims:
        raise InputError(f"weight '{source.value}': expected shape {list(dims)}, got {list(weight.shape)}")
    return converted.tobytes()


def _current_bytes(tensor: onnx.TensorProto) -> bytes:
    return tensor.raw_data if tensor.HasField("raw_data") else ir.serde.deserialize_tensor(tensor).tobytes()


def _replace_data(tensor: onnx.TensorProto, data: bytes) -> None:
    for field in DATA_FIELDS:
        tensor.ClearField(field)
    tensor.raw_data = data


def _give_own_initializer(
    proto: onnx.ModelProto,
    record: ConversionRecord,
    parameter: str,
    value: str,
    merged: onnx.TensorProto,
    data: bytes,
    fixed: Counter[str],
) -> None:
    """Separate one use of a merged weight from the others: a new initializer for the readers of the parameter."""
    places = _places(proto, record, parameter, value, fixed)
    if not places:
        also = f" (also as a fixed argument of node {next(iter(fixed))!r})" if fixed else ""
        raise NoPlaceError(
            f"{record.source}: weight '{merged.name}' is shared{also}, its copy {parameter!r} was trained to other "
            f"values, and its readers cannot be identified; {_WAY_OUT}"
        )
    own = proto.graph.initializer.add(name=f"{value}.{parameter}", data_type=merged.data_type)
    own.dims.extend(merged.dims)
    own.raw_data = data
    for node, index in places:
        node.input[index] = own.name


def _places(
    proto: onnx.ModelProto, record: ConversionRecord, parameter: str, value: str, fixed: Counter[str]
) -> list[tuple[onnx.NodeProto, int]]:
    """Nodes of the source, and which of their inputs, where `value` is read as `parameter`; none where they
    cannot be identified. `fixed` counts the nodes that read it as a fixed argument.
    """
    names = set(accounted_reads(record, parameter))
    readers = WeightReaders(proto.graph)
    reading = readers.of(value, names)
    sharing = [name for name, source in record.parameters.items() if source.value == value]
    if len(sharing) == 1 and not fixed:
        return [(read.node, read.index) for read in reading]
    called = Counter(node.name for node in readers.nodes)
    if any(not name or called[name] > 1 or name in fixed for name in names):
        return []  # nodes without a name or of one name, or their inputs, cannot be distinguished
    if fixed and any(output.name == value for output in proto.graph.output):
        return []
    own = [read for read in reading if names.intersection(read.users)]
    if any(not names.issuperset(read.users) for read in own):
        return []  # a node in between serves other readers too
    places = [(read.node, read.index) for read in own]
    owner, _, leaf = parameter.rpartition(".")
    if sum(name.rpartition(".")[0] == owner for name in sharing) == 1:
        return places
    if any(node.op_type not in _NATIVE for node, _ in places):
        return []  # one layer for several nodes, two of which may read the same weight
    return [(node, index) for node, index in places if index == _INPUT_OF.get(leaf)]


def _replace_computed(
    proto: onnx.ModelProto,
    record: ConversionRecord,
    computed: Mapping[str, ParameterSource],
    tensors: Mapping[str, torch.Tensor],
    fixed: Collection[str],
) -> None:
    """Weights that nodes of the source compute (a Cast, a DequantizeLinear): where training changed one, the node
    gives way to an initializer of the same name.
    """
    original = onnx_to_torch(proto, learned=record.learned).state_dict()
    changed = [name for name in computed if name not in original or not torch.equal(original[name], tensors[name])]
    for name in changed:
        value = computed[name].value
        producer = next((node for node in proto.graph.node if list(node.output) == [value]), None)
        if producer is None or computed[name].transform == "reshape" or value in fixed:
            raise NoPlaceError(
                f"{record.source}: weight '{value}' is computed by a node of the source graph, so the trained "
                f"{name!r} has no place in it; {_WAY_OUT}"
            )
        proto.graph.node.remove(producer)
        weight = inverse_transform(tensors[name], computed[name], ()).contiguous()
        proto.graph.initializer.append(ir.serde.serialize_tensor(TorchTensor(weight, name=value)))
        _drop_unread(proto.graph, producer)


def _drop_unread(graph: onnx.GraphProto, removed: onnx.NodeProto) -> None:
    """Initializers that only the removed node read go with it."""
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    unread = [tensor for tensor in graph.initializer if tensor.name in removed.input and tensor.name not in read]
    for tensor in unread:
        graph.initializer.remove(tensor)
