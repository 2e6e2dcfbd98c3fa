"""`inspect`: the contents of a model, and what other commands will say of it. Nothing is written.

An ONNX file is read from its protobuf, a bundle of one from its files, a file of torch from its records, a name of the
zoo looked up: none loads torch. Bundles of the zoo and run folders are opened by torch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...errors import InputError
from ..bundles.bundle_info import is_bundle, read_info
from ..files.model_bytes import TORCH_SUFFIXES, TORCHSCRIPT_SUFFIXES, refuse_served
from ..files.model_file import ModelFile
from ..records.provenance import chain_of_bundle
from ..records.record import TensorSpec
from ..zoo.facts import FACTS, check_reference
from .bundle_inspection import inspect_stored_bundle
from .graph_inspection import inspect_graph
from .inspection import BatchNorms, Inspection
from .served_inspection import ServedInspection, inspect_served

__all__ = ["inspect"]

_FLOAT_BYTES = 4


def inspect(
    reference: str | Path, weights: str | Path | None = None, *, verify: bool = False
) -> Inspection | ServedInspection:
    """Inspect an ONNX file, a bundle or any other model reference; of a served model what its server states.

    Args:
        reference: what MODEL names.
        weights: a state_dict file that is tried on the model, in torch.
        verify: also convert and run an ONNX file, which finds the problems that its graph alone does not show, the
            BatchNorms that cannot be folded, and whether an open batch is its images one by one; it takes seconds.

    Raises:
        InputError: the reference names nothing that can be opened, or `weights` does not fit.
        PlatformError: no server answers.

    Examples:
        >>> found = rtool.inspect("model.onnx")
        >>> found.batch, found.parameters, found.operators
        ('dynamic', 112, {'Conv': 1, 'Relu': 1, 'ReduceMean': 1})
    """
    if str(reference).startswith("triton://"):
        if verify or weights is not None:
            raise InputError(f"{reference}: --verify and --weights need the graph, which stays on the server")
        return inspect_served(str(reference))
    return _of_graph(reference, weights, verify=verify)


def _of_graph(reference: str | Path, weights: str | Path | None, *, verify: bool) -> Inspection:
    if weights is not None:
        from ..bundles.reference import load_model

        return replace(_of_graph(reference, None, verify=verify), weights=load_model(reference, weights).weights)
    path, name = Path(reference), str(reference)
    if name in FACTS:
        return _of_the_zoo(name)
    refuse_served(name)
    if not path.is_dir() and (path.suffix == ".onnx" or (path.is_file() and path.suffix not in TORCH_SUFFIXES)):
        return _of_file(path, verify=verify)
    check_reference(name)

    if is_bundle(path):
        return _of_bundle(path)
    if path.is_file() and path.suffix in (".pt2", *TORCHSCRIPT_SUFFIXES):
        from .archive_inspection import inspect_program, inspect_script

        return inspect_program(path) if path.suffix == ".pt2" else inspect_script(path)

    from .module_inspection import inspect_module

    return inspect_module(name)


def _of_bundle(folder: Path) -> Inspection:
    info = read_info(folder)
    buffers = info.get("buffers")
    if isinstance(buffers, list) and not info.get("architecture"):
        return inspect_stored_bundle(folder, info, {str(name) for name in buffers})

    from .module_inspection import inspect_bundle

    return inspect_bundle(folder)


def _of_file(path: Path, *, verify: bool) -> Inspection:
    file = ModelFile.read(path)
    found = inspect_graph(file, "onnx", file.size)
    if not verify:
        return found

    from .module_inspection import try_batch, try_conversion

    problems, unfoldable = try_conversion(file)
    norms = None if found.batchnorms is None else replace(found.batchnorms, unfoldable=unfoldable)
    # A conversion lists every refused node, with those that the graph alone shows.
    known = [text for text in found.problems if not any(text.splitlines()[0][:40] in more for more in problems)]
    found = replace(found, problems=(*problems, *known), batchnorms=norms, verified=True)
    return found if problems else try_batch(file, found)


def _of_the_zoo(name: str) -> Inspection:
    facts = FACTS[name]
    size = facts.preprocessing
    image = TensorSpec("images", "float32", ("batch", size.channels, size.height, size.width))
    norms = sum(count for layer, count in facts.layers.items() if "BatchNorm" in layer)
    return Inspection(
        name=name,
        kind="zoo",
        size_bytes=(facts.parameters + facts.buffers) * _FLOAT_BYTES,
        sha256=None,
        producer="torch",
        ir_version=None,
        opsets={},
        inputs=(image,),
        outputs=(TensorSpec("embedding", "float32", ("batch", facts.embedding)),),
        batch="dynamic",
        fixed_batch_places=(),
        operators=facts.layers,
        parameters=facts.parameters,
        buffers=facts.buffers,
        macs=facts.macs,
        activations=None,
        precision="float32",
        batchnorms=BatchNorms(0, norms),
        preprocessing=size,
        preprocessing_origin="of the architecture",
        architecture=name,
        problems=(),
        chain=chain_of_bundle({"architecture": {"name": name}}),
        batch_proof="by construction",
    )
