"""A file of torch (`.pt2`, TorchScript), inspected from its checked records alone: neither torch nor its code runs.

Numbers are those of the tensors that the records describe. Whether torch takes the file is known only when it opens it.
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..files.torch_archives.program_records import ProgramRecords, read_program
from ..files.torch_archives.script_records import ScriptRecords, read_script
from ..files.torch_archives.tensor_pickle import Made
from ..preprocessing.decision import known_preprocessing
from ..preprocessing.evidence import evidence_of_inputs, stated_in_metadata
from ..records.interface import INTERFACE_KEY, interface_of
from ..records.preprocessing import METADATA_KEY
from ..records.provenance import CHAIN_KEY, chain_of_metadata
from ..records.record import TensorSpec
from .inspection import BatchNorms, Inspection

__all__ = ["inspect_program", "inspect_script"]

_KEYS = (METADATA_KEY, CHAIN_KEY, INTERFACE_KEY)
_DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16",
    29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu",
    34: "uint32", 35: "uint64",
}  # fmt: skip
"""Scalar type of the schema -> torch's name."""
_STORAGE_DTYPES = {
    "BoolStorage": "bool", "ByteStorage": "uint8", "CharStorage": "int8", "ShortStorage": "int16",
    "HalfStorage": "float16", "BFloat16Storage": "bfloat16", "IntStorage": "int32", "FloatStorage": "float32",
    "LongStorage": "int64", "DoubleStorage": "float64", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}  # fmt: skip
_SYMBOL = re.compile(r"Symbol\('(\w+)'[^()]*\)")


@dataclass(frozen=True)
class _Tensor:
    """What is counted of a weight; the same `place` is the same weight."""

    numbers: int
    dtype: str
    place: object


def inspect_program(path: Path) -> Inspection:
    """Inspect an exported program.

    Raises:
        InputError: as `read_program`.
    """
    read = read_program(path)
    stated = read.stated(_KEYS)
    module = read.program["graph_module"]
    specs = [next(iter(spec.items())) for spec in module["signature"]["input_specs"]]
    tensors: dict[str, list[_Tensor]] = {"parameter": [], "buffer": []}
    named, outputs = interface_of(stated.get(INTERFACE_KEY), str(path))
    count = len(module["graph"]["inputs"])
    if len(specs) != count:
        raise InputError(f"{path}: its program has {count} inputs and describes {len(specs)}; export it again")
    try:
        for kind, spec in specs:
            if kind in tensors:
                tensors[kind].append(_stored(read, spec[f"{kind}_name"]))
        inputs = _inputs(module["graph"], [spec["arg"] for kind, spec in specs if kind == "user_input"])
    except KeyError as error:
        raise InputError(f"{path}: its program names {error}, which is not in the file; export it again") from error
    if len(named) == len(inputs):
        inputs = tuple(replace(own, name=spec.name) for own, spec in zip(inputs, named, strict=True))
    calls = Counter(
        node["target"].removeprefix("torch.ops.aten.").partition(".")[0]
        for node in module["graph"]["nodes"]
        if node["target"].startswith("torch.ops.aten.")
    )
    norms = sum(count for name, count in calls.items() if "batch_norm" in name)
    found = _inspection(path, "exported", stated, inputs, calls, tensors["parameter"], tensors["buffer"], norms)
    return replace(found, outputs=outputs)


def inspect_script(path: Path) -> Inspection:
    """Inspect a TorchScript file.

    Raises:
        InputError: as `read_script`.
    """
    read = read_script(path)
    stated = read.stated(_KEYS)
    inputs, outputs = interface_of(stated.get(INTERFACE_KEY), str(path))
    declared = _declared(read)
    layers: Counter[str] = Counter()
    tensors: dict[str, list[_Tensor]] = {"__parameters__": [], "__buffers__": []}
    for module in _modules(read.root):
        values = _attributes(module)
        if not any(_is_module(value) for value in values.values()):
            layers[module.by.name] += 1
        for kind, names in declared.get(str(module.by), {}).items():
            tensors[kind] += filter(None, (_tensor(values.get(name)) for name in names))
    norms = sum(count for name, count in layers.items() if "BatchNorm" in name)
    found = _inspection(
        path, "torchscript", stated, inputs, layers, tensors["__parameters__"], tensors["__buffers__"], norms
    )
    return replace(found, outputs=outputs)


def _inspection(
    path: Path,
    kind: str,
    stated: Mapping[str, str],
    inputs: tuple[TensorSpec, ...],
    operators: Counter[str],
    parameters: list[_Tensor],
    buffers: list[_Tensor],
    norms: int,
) -> Inspection:
    label = str(path)
    evidence = evidence_of_inputs(path.name, inputs).stating(stated_in_metadata(label, stated), "stated in the file")
    decided = known_preprocessing(evidence)
    known = None if isinstance(decided, str) else decided
    if not inputs and evidence.stated is not None:
        size = evidence.stated
        inputs = (TensorSpec("images", "float32", ("batch", size.channels, size.height, size.width)),)
    first = inputs[0].shape[:1] if inputs else ()
    return Inspection(
        name=path.name,
        kind=kind,
        size_bytes=path.stat().st_size,
        sha256=None,
        producer="torch",
        ir_version=None,
        opsets={},
        inputs=inputs,
        outputs=(),
        batch=next((size for size in first if isinstance(size, int)), "dynamic"),
        fixed_batch_places=(),
        operators=dict(operators.most_common()),
        parameters=_count(parameters),
        buffers=_count([buffer for buffer in buffers if "float" in buffer.dtype]),
        macs=None,
        activations=None,
        precision="/".join(sorted({parameter.dtype for parameter in parameters})) or "no weights",
        batchnorms=BatchNorms(None, norms),
        preprocessing=None if known is None else known.preprocessing,
        preprocessing_origin=decided if isinstance(decided, str) else decided.reason,
        architecture=None,
        problems=(),
        chain=chain_of_metadata(stated),
    )


def _count(tensors: list[_Tensor]) -> int:
    return sum({tensor.place: tensor.numbers for tensor in tensors}.values())


def _stored(read: ProgramRecords, name: str) -> _Tensor:
    payload = read.weights.get(name) or read.constants[name]
    meta = payload["tensor_meta"]
    sizes = [size["as_int"] for size in meta["sizes"]]
    return _Tensor(math.prod(sizes), _DTYPES[meta["dtype"]], name)


def _inputs(graph: Mapping[str, Any], arguments: list[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    """The inputs of a program, if all are tensors."""
    specs = []
    for argument in arguments:
        if "as_tensor" not in argument:
            return ()
        name = argument["as_tensor"]["name"]
        meta = graph["tensor_values"][name]
        sizes = [_size(size) for size in meta["sizes"]]
        if len(sizes) != len(meta["strides"]) or any(isinstance(size, int) and size < 0 for size in sizes):
            raise InputError(f"input {name!r} has the shape {sizes[:8]}, which no tensor has; export it again")
        batch = [size if isinstance(size, int) else "batch" for size in sizes[:1]]
        specs.append(TensorSpec(name, _DTYPES[meta["dtype"]], (*batch, *sizes[1:])))
    return tuple(specs)


def _size(size: Mapping[str, Any]) -> int | str:
    if "as_int" in size:
        return int(size["as_int"])
    return _SYMBOL.sub(r"\1", str(size["as_expr"]["expr_str"]))


def _declared(read: ScriptRecords) -> dict[str, dict[str, list[str]]]:
    """Which attributes each class of the source declares as parameters and as buffers."""
    found: dict[str, dict[str, list[str]]] = {}
    for record, tree in read.code.items():
        module = record.removeprefix("code/").removesuffix(".py").replace("/", ".")
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                found[f"{module}.{node.name}"] = dict(_lists(node))
    return found


def _lists(cls: ast.ClassDef) -> Iterator[tuple[str, list[str]]]:
    for statement in cls.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id in ("__parameters__", "__buffers__"):
            assert isinstance(statement, ast.Assign)
            values = statement.value.elts if isinstance(statement.value, ast.List) else []
            yield target.id, [str(value.value) for value in values if isinstance(value, ast.Constant)]


def _modules(root: Any) -> Iterator[Made]:
    """The module and those inside it, each once."""
    waiting, seen = [root], set[int]()
    while waiting:
        module = waiting.pop(0)
        if _is_module(module) and id(module) not in seen:
            seen.add(id(module))
            yield module
            waiting += _attributes(module).values()


def _attributes(module: Made) -> dict[str, Any]:
    """The values of a module, by name; what has no name is left to torch to refuse."""
    state = module.state if isinstance(module.state, list) else []
    pairs = [pair for pair in state if isinstance(pair, tuple) and len(pair) == 2]
    return {name: value for name, value in pairs if isinstance(name, str)}


def _is_module(value: Any) -> bool:
    return isinstance(value, Made) and value.by.module.partition(".")[0] == "__torch__"


def _tensor(value: Any) -> _Tensor | None:
    """A tensor of a pickle, which `read_pickle` has checked; None where the value is something else, such as None."""
    if not isinstance(value, Made) or value.by.name != "_rebuild_tensor_v2":
        return None
    storage, _, sizes = value.arguments[:3]
    return _Tensor(math.prod(sizes), _STORAGE_DTYPES[storage.kind], id(value))
