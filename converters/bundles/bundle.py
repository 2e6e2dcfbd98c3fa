"""Bundles: a converted model as a folder of four plain files, written atomically and loaded without running code.

    NAME.rtool/
      graph.onnx           the source graph, its weights stripped (absent for models from the zoo)
      weights.safetensors  every parameter and buffer under its torch name
      model.py             readable source that imports only torch; never executed by rtool
      bundle.json          mapping parameter -> source value, preprocessing, provenance, restored BatchNorms

A training checkpoint is a bundle. A model from the zoo has `architecture` in `bundle.json` instead of a graph.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import fx, nn

from ...errors import InputError
from ..batchnorm.restore import insert_batchnorms
from ..files.folders import replace_folder
from ..files.model_file import ModelFile, parse_model
from ..files.torch_archives.special_files import refuse_special
from ..graphs.stripped_weights import weight_tensors
from ..lowering.conversion import onnx_to_torch
from ..records.batch_proof import BatchProof, bundle_entry
from ..records.preprocessing import Preprocessing
from ..records.provenance import chain_of_bundle
from ..records.record import ConversionRecord, ParameterSource, RestoredBatchNorm, record_of, require_record
from ..weights.module_edits import difference_from_conversion
from ..weights.stripping import fill_weights, strip_weights
from ..weights.weight_readers import fixed_reads, stored_origins
from ..weights.writing_back import source_file, write_back
from ..zoo.registry import build_architecture
from .bundle_info import (
    FORMAT,
    GRAPH,
    INFO,
    SOURCE,
    SUPERNET,
    WEIGHTS,
    bundle_mapping,
    bundle_preprocessing,
    bundle_source,
    is_bundle,
    read_info,
    understood,
)
from .codegen.module_source import generate_source
from .stored_names import keep_stored_names

__all__ = ["Bundle", "bundle_to_onnx", "load_bundle", "save_bundle", "stripped_graph"]


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle; `module` is in eval mode, `record` is None for a model from the zoo."""

    path: Path
    module: nn.Module
    record: ConversionRecord | None
    preprocessing: Preprocessing | None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The whole of `bundle.json`."""
    stripped: onnx.ModelProto | None = None
    """The source graph without its weights, as it was read from `graph.onnx`; None for a model from the zoo."""

    def source(self) -> ModelFile:
        """The source graph with the weights of `module` in it, under the name and digest of the file it came from.

        Raises:
            InputError: a model from the zoo has no source graph.
        """
        if self.stripped is None or self.record is None:
            raise InputError(f"{self.path}: a bundle of a model from the zoo has no source graph; use `rtool export`")
        return _filled(self.path, self.metadata, self.stripped, self.module.state_dict())


def save_bundle(
    module: nn.Module,
    path: str | Path,
    *,
    source: onnx.ModelProto | ir.Model | ModelFile | str | Path | None = None,
    architecture: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    provenance: Mapping[str, Any] | None = None,
    batch_proof: BatchProof | None = None,
    overwrite: bool = False,
) -> Path:
    """Write `module` as a bundle, atomically.

    Args:
        module: a converted module, or one from the zoo.
        path: the bundle folder to make.
        source: for a converted module the graph it came from: the ONNX model, its file, or a bundle made from it.
        architecture: for a model from the zoo `{"name": ..., "options": {...}}`.
        preprocessing: stored with the model; default is the record's.
        provenance: JSON data on how this model was made.
        batch_proof: recorded with the digests of the graph and the weights, for which alone it holds.
        overwrite: replace a bundle, but never anything else, that is already there.

    Raises:
        InputError: `path` exists, `source` and `architecture` do not fit `module`, or the converted module was edited,
            so that it no longer computes what its source graph does.
    """
    record = record_of(module)
    if (record is None) == (architecture is None) or (record is None) != (source is None):
        raise InputError("save_bundle: give `source` for a converted module, `architecture` for one from the zoo")
    edit = difference_from_conversion(module) if isinstance(module, fx.GraphModule) and record is not None else ""
    if edit:
        raise InputError(
            f"{path}: the module was edited: {edit}; a bundle holds the source graph, which lacks that: `export` makes "
            "a new graph of the module, and its state_dict can be saved"
        )
    preprocessing = preprocessing or (record.preprocessing if record is not None else None)
    tensors, tied = _unique_tensors(module)
    info = {
        "format": FORMAT,
        "architecture": dict(architecture) if architecture is not None else None,
        **_record_to_dict(record),
        "tied": tied,
        "buffers": sorted(name for name, _ in module.named_buffers() if name in tensors),
        "preprocessing": preprocessing.to_dict() if preprocessing is not None else None,
        "provenance": dict(provenance or {}),
    }
    with replace_folder(Path(path), may_replace=is_bundle if overwrite else None) as folder:
        if record is not None and source is not None:
            stripped = stripped_graph(_source_proto(source), record)
            (folder / GRAPH).write_bytes(stripped.SerializeToString())
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        (folder / SOURCE).write_text(generate_source(module), encoding="utf-8")
        if batch_proof is not None:
            info["batch_proof"] = bundle_entry(folder, batch_proof)
        (folder / INFO).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    return Path(path)


def load_bundle(path: str | Path) -> Bundle:
    """Rebuild the module of a bundle from its graph and weights.

    Raises:
        InputError: not a bundle, of a newer format, or its files do not fit together.

    Examples:
        >>> result = rtool.onnx2torch("model.onnx", "saved.rtool")
        >>> rtool.converters.load_bundle("saved.rtool").module(torch.zeros(1, 3, 16, 8)).shape
        torch.Size([1, 4])
    """
    folder = Path(path)
    info = read_info(folder)
    tensors = _read_weights(folder, info)
    preprocessing = bundle_preprocessing(folder, info)
    stripped = None
    if info.get("architecture"):
        module: nn.Module = _build_architecture(folder, info["architecture"])
        record = None
    else:
        stripped = parse_model(folder / GRAPH)
        filled = _filled(folder, info, stripped, tensors)
        module = _rebuild(folder, info, filled)
        tensors = _without_fixed(tensors, module, filled, bundle_mapping(folder, info))
        record = require_record(module)
        record.preprocessing, record.chain = preprocessing, chain_of_bundle(info)
    _load_tensors(module, tensors, folder)
    return Bundle(folder, module.eval(), record, preprocessing, info, stripped)


def bundle_to_onnx(path: str | Path) -> onnx.ModelProto:
    """The source graph with the bundle's weights in it; restored BatchNorms are folded first.

    The weights of a bundle that was not trained come back bit for bit.

    Raises:
        InputError: not a bundle, or a bundle of a model from the zoo, which has no source graph.
    """
    bundle = load_bundle(path)
    source = bundle.source()
    assert isinstance(bundle.module, fx.GraphModule)
    return write_back(bundle.module, source)


def _filled(
    folder: Path, info: Mapping[str, Any], stripped: onnx.ModelProto, tensors: Mapping[str, torch.Tensor]
) -> ModelFile:
    """A copy of the bundle's graph with its weights in it, under the name and digest of the file it came from."""
    proto = onnx.ModelProto()
    proto.CopyFrom(stripped)
    fill_weights(proto, bundle_mapping(folder, info), tensors, str(folder))
    return ModelFile.in_memory(proto, bundle_source(folder, info))


def _rebuild(folder: Path, info: dict[str, Any], source: ModelFile) -> fx.GraphModule:
    with understood(folder / INFO):
        learned = tuple(str(name) for name in info.get("learned", ()))
    module = onnx_to_torch(source, learned=learned)
    keep_stored_names(module, bundle_mapping(folder, info))
    record = require_record(module)
    with understood(folder / INFO):
        record.restored = tuple(RestoredBatchNorm(**entry) for entry in info["restored"])
        record.frozen = tuple(info.get("frozen", ()))
        for name in record.frozen:
            module.get_parameter(name).requires_grad_(False)
    if record.restored:
        insert_batchnorms(module, record.restored)
    return module


def _without_fixed(
    tensors: Mapping[str, torch.Tensor], module: nn.Module, filled: ModelFile, mapping: Mapping[str, ParameterSource]
) -> dict[str, torch.Tensor]:
    """`tensors` without those that an earlier rtool trained and that now are constants of the filled graph, where
    they have the values they were trained to.
    """
    own = module.state_dict()
    stale = [name for name in tensors if name in mapping and name not in own]
    if not stale:
        return dict(tensors)
    stored = dict(weight_tensors(filled.outline.graph))
    held = {name: stored.get(mapping[name].value) for name in stale}
    in_graph = {name for name, tensor in held.items() if tensor is not None and _same_numbers(tensor, tensors[name])}
    return {name: tensor for name, tensor in tensors.items() if name not in in_graph}


def _same_numbers(stored: onnx.TensorProto, tensor: torch.Tensor) -> bool:
    return np.array_equal(onnx.numpy_helper.to_array(stored).reshape(-1), tensor.numpy().reshape(-1))


def _build_architecture(folder: Path, architecture: Mapping[str, Any]) -> nn.Module:
    name = architecture.get("name") if isinstance(architecture, dict) else None
    if not isinstance(name, str):
        raise InputError(f"{folder / INFO}: architecture needs a name, got {architecture}")
    if name == SUPERNET:
        raise InputError(
            f"{folder}: a checkpoint of a search, which is no network to use; train the cell that it found: "
            "model.reference=searched 'model.options={genotype: RUN/search/genotype.json}'"
        )
    with understood(folder / INFO):
        return build_architecture(name, **architecture.get("options", {}))


def _load_tensors(module: nn.Module, tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    missing, unexpected = set(module.state_dict()) - set(tensors), set(tensors) - set(module.state_dict())
    if missing or unexpected:
        raise InputError(
            f"{folder / WEIGHTS}: does not fit the graph: missing {sorted(missing)[:3]}, unexpected "
            f"{sorted(unexpected)[:3]}; the bundle's files come from different models"
        )
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise InputError(f"{folder / WEIGHTS}: does not fit the graph ({error})") from error


def _unique_tensors(module: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The state of `module` with every tied tensor once, and name -> first name of the tied ones."""
    tensors: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in module.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and key in first:
            tied[name] = first[key]
            continue
        first[key] = name
        tensors[name] = tensor.detach().cpu().contiguous()
    return tensors, tied


def _record_to_dict(record: ConversionRecord | None) -> dict[str, Any]:
    if record is None:
        return {}
    return {
        "source": {
            "name": record.source,
            "sha256": record.sha256,
            "opset": record.opset,
            "producer": record.producer,
        },
        "inputs": [asdict(spec) for spec in record.inputs],
        "outputs": [asdict(spec) for spec in record.outputs],
        "mapping": {name: asdict(source) for name, source in record.parameters.items()},
        "nodes": {name: list(nodes) for name, nodes in record.nodes.items()},
        "restored": [asdict(entry) for entry in record.restored],
        "frozen": list(record.frozen),
        **({"learned": list(record.learned)} if record.learned else {}),
    }


def stripped_graph(proto: onnx.ModelProto, record: ConversionRecord) -> onnx.ModelProto:
    """Strip the weights from `proto`, in place; one that is also a fixed argument, which does not train, stays."""
    fixed = fixed_reads(proto, record, stored_origins(proto.graph))
    return strip_weights(proto, {name: s for name, s in record.parameters.items() if s.value not in fixed})


def _source_proto(source: onnx.ModelProto | ir.Model | ModelFile | str | Path) -> onnx.ModelProto:
    """A copy of the source graph, which may be stripped."""
    if isinstance(source, str | Path) and is_bundle(source):
        return parse_model(Path(source) / GRAPH)
    if isinstance(source, onnx.ModelProto):  # whose weights may be stripped already, so it is not checked
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return copy
    return source_file(source).proto()


def _read_weights(folder: Path, info: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    file = folder / WEIGHTS
    refuse_special(file)
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: cannot be read ({error}); make the bundle again") from error
    with understood(folder / INFO):
        for name, first in info.get("tied", {}).items():
            if first in tensors:
                tensors[name] = tensors[first]
    return tensors
