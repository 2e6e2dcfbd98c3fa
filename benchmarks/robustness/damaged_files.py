"""Model files and seeded damage to them, the input of `damage`.

A model is a set of files and the name of the one to open. Half of all variants damage only the description of the graph
(nodes, names, shapes, attributes; the header of a safetensors file; `bundle.json`) and never the values of a weight,
which are 80 to 99 % of the bytes and would otherwise be hit nearly always.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from ...converters.bundles.onnx_to_bundle import onnx2torch
from ...converters.zoo.iresnet import IResNet
from ...converters.zoo.osnet import OSNet
from ...converters.zoo.vit import VisionTransformer
from ..places import DEMO_MODEL

__all__ = ["KINDS", "ModelFiles", "Variant", "damaged", "real_files"]

_LARGE = 64
"""Bytes from which on the raw data of a tensor count as weights and not as part of the graph's description."""


@dataclass(frozen=True)
class ModelFiles:
    """One model: its files by name, and the one to open ("" for the folder itself, a bundle)."""

    name: str
    files: Mapping[str, bytes]
    entry: str

    def write(self, folder: Path) -> Path:
        """Write all files into `folder`; returns the path to open."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder / self.entry


@dataclass(frozen=True)
class Variant:
    """A damaged model and the kind of damage."""

    index: int
    model: ModelFiles
    file: str
    kind: str
    structure: bool
    """Whether only the description of the graph was damaged."""


def real_files(extra: Sequence[Path] = ()) -> list[ModelFiles]:
    """The example of this repository, exports of small networks, one with external data, a bundle, and `extra`."""
    models = [ModelFiles(path.name, {path.name: path.read_bytes()}, path.name) for path in (DEMO_MODEL, *extra)]
    torch.manual_seed(0)
    osnet, face = OSNet(width=0.25).eval(), IResNet((1, 1, 1, 1), embedding_size=32, input_size=(32, 32)).eval()
    vit = VisionTransformer(dim=32, depth=2, heads=2, patch=8, embedding_size=16, input_size=(32, 32)).eval()
    exports = {
        "osnet, dynamo, opset 20": _export(osnet, (64, 32), dynamo=True, opset=20),
        "iresnet, TorchScript, opset 11": _export(face, (32, 32), dynamo=False, opset=11),
        "vision transformer, TorchScript, opset 17": _export(vit, (32, 32), dynamo=False, opset=17),
        "vision transformer, dynamo, opset 23": _export(vit, (32, 32), dynamo=True, opset=23),
    }
    models += [ModelFiles(name, {"model.onnx": content}, "model.onnx") for name, content in exports.items()]
    models.append(_external("iresnet, external data", exports["iresnet, TorchScript, opset 11"]))
    models.append(_bundle("iresnet, bundle", exports["iresnet, TorchScript, opset 11"]))
    return models


def damaged(models: Sequence[ModelFiles], index: int, seed: int) -> Variant:
    """Variant number `index` of a run: even ones damage the description of the graph, odd ones any byte."""
    generator = np.random.default_rng([seed, index])
    structure = index % 2 == 0
    model = models[(index // 2) % len(models)]
    file = _target(model, structure, generator)
    content = model.files[file]
    kinds = [kind for kind in KINDS if kind != "field" or (structure and file.endswith(".onnx"))]
    kind = str(generator.choice(kinds))
    if kind == "field":
        content = _change_field(content, generator)
    else:
        start = _position(content, file, generator) if structure else int(generator.integers(len(content)))
        content = KINDS[kind](bytearray(content), start, generator)
    hurt = ModelFiles(model.name, {**model.files, file: content}, model.entry)
    return Variant(index, hurt, file, kind, structure)


def _target(model: ModelFiles, structure: bool, generator: np.random.Generator) -> str:
    """The file to damage: one that describes the graph, or any, with a probability that grows with its size."""
    names = [name for name in model.files if not (structure and name.endswith((".data", ".py")))]
    return str(generator.choice(names))


def _position(content: bytes, file: str, generator: np.random.Generator) -> int:
    """The offset of a byte in the description of the graph."""
    spans = _weight_spans(content, file)
    offset = int(generator.integers(len(content) - sum(stop - start for start, stop in spans)))
    for start, stop in spans:
        if offset < start:
            break
        offset += stop - start
    return offset


def _weight_spans(content: bytes, file: str) -> list[tuple[int, int]]:
    """The ranges of a file that contain the values of weights."""
    if file.endswith(".safetensors"):
        return [(8 + int.from_bytes(content[:8], "little"), len(content))]
    if not file.endswith(".onnx"):
        return []
    spans, position = [], 0
    for tensor in onnx.load_from_string(content).graph.initializer:
        if len(tensor.raw_data) >= _LARGE:
            start = content.find(tensor.raw_data, position)
            position = start + len(tensor.raw_data)
            spans.append((start, position))
    return spans


def _flip_bit(content: bytearray, start: int, generator: np.random.Generator) -> bytes:
    content[start] ^= 1 << int(generator.integers(8))
    return bytes(content)


def _flip_bytes(content: bytearray, start: int, generator: np.random.Generator) -> bytes:
    length = int(generator.integers(1, 9))
    content[start : start + length] = generator.bytes(len(content[start : start + length]))
    return bytes(content)


def _zeros(content: bytearray, start: int, generator: np.random.Generator) -> bytes:
    length = int(generator.integers(1, 65))
    content[start : start + length] = bytes(len(content[start : start + length]))
    return bytes(content)


def _truncate(content: bytearray, start: int, _generator: np.random.Generator) -> bytes:
    return bytes(content[:start])


def _duplicate(content: bytearray, start: int, generator: np.random.Generator) -> bytes:
    chunk = content[start : start + int(generator.integers(8, 257))]
    return bytes(content[:start] + chunk + content[start:])


def _change_field(content: bytes, generator: np.random.Generator) -> bytes:
    """One change that leaves valid protobuf, the damage that is hardest to notice."""
    proto = onnx.load_from_string(content)
    for _ in range(50):
        change = _FIELD_CHANGES[int(generator.integers(len(_FIELD_CHANGES)))]
        if change(proto.graph, generator):
            break
    changed: bytes = proto.SerializeToString()
    return changed


def _node(graph: onnx.GraphProto, generator: np.random.Generator) -> onnx.NodeProto:
    node: onnx.NodeProto = graph.node[int(generator.integers(len(graph.node)))]
    return node


def _change_attribute(graph: onnx.GraphProto, generator: np.random.Generator) -> bool:
    node = _node(graph, generator)
    numbers = [attribute for attribute in node.attribute if attribute.ints or attribute.HasField("i")]
    if not numbers:
        return False
    attribute = numbers[int(generator.integers(len(numbers)))]
    value = int(generator.choice([-(2**62), -3, -1, 0, 1, 2, 3, 7, 2**31, 2**62]))
    if attribute.HasField("i"):
        attribute.i = value
    else:
        attribute.ints[int(generator.integers(len(attribute.ints)))] = value
    return True


def _drop_attribute(graph: onnx.GraphProto, generator: np.random.Generator) -> bool:
    node = _node(graph, generator)
    if not node.attribute:
        return False
    del node.attribute[int(generator.integers(len(node.attribute)))]
    return True


def _swap_inputs(graph: onnx.GraphProto, generator: np.random.Generator) -> bool:
    """Replace an input of a node by one of another node."""
    node, other = _node(graph, generator), _node(graph, generator)
    if not node.input or not other.input:
        return False
    node.input[int(generator.integers(len(node.input)))] = other.input[int(generator.integers(len(other.input)))]
    return True


def _change_operator(graph: onnx.GraphProto, generator: np.random.Generator) -> bool:
    node = _node(graph, generator)
    node.op_type = _node(graph, generator).op_type
    return True


def _drop_node(graph: onnx.GraphProto, generator: np.random.Generator) -> bool:
    del graph.node[int(generator.integers(len(graph.node)))]
    return True


def _change_size(graph: onnx.GraphProto, generator: np.random.Generator) -> bool:
    """Change a dimension of a graph input, or exchange two dimensions of a weight."""
    if generator.random() < 0.5:
        dims = graph.input[0].type.tensor_type.shape.dim
        dims[int(generator.integers(len(dims)))].dim_value = int(generator.choice([-1, 0, 1, 2, 5, 7, 2**40]))
        return True
    tensor = graph.initializer[int(generator.integers(len(graph.initializer)))]
    if len(tensor.dims) < 2:
        return False
    tensor.dims[0], tensor.dims[1] = tensor.dims[1], tensor.dims[0]
    return True


_FIELD_CHANGES: tuple[Callable[[onnx.GraphProto, np.random.Generator], bool], ...] = (
    _change_attribute,
    _drop_attribute,
    _swap_inputs,
    _change_operator,
    _drop_node,
    _change_size,
)

KINDS: Mapping[str, Callable[[bytearray, int, np.random.Generator], bytes]] = {
    "bit": _flip_bit,
    "bytes": _flip_bytes,
    "zeros": _zeros,
    "truncated": _truncate,
    "duplicated": _duplicate,
    "field": lambda content, _start, generator: _change_field(bytes(content), generator),
}
"""One flipped bit; up to 8 random bytes; up to 64 zeros; cut off; a part repeated; a field of a valid file changed."""


def _export(module: nn.Module, size: tuple[int, int], *, dynamo: bool, opset: int) -> bytes:
    """An export with a dynamic batch."""
    buffer, example = io.BytesIO(), torch.randn(2, 3, *size)
    options: dict[str, Any] = {"dynamo": dynamo, "opset_version": opset, "input_names": ["images"]}
    options |= {"dynamic_shapes": ({0: "N"},), "verbose": False} if dynamo else {"dynamic_axes": {"images": {0: "N"}}}
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (example,), buffer, output_names=["embedding"], **options)  # type: ignore[arg-type]
    finally:
        logging.disable(level)
    return buffer.getvalue()


def _external(name: str, content: bytes) -> ModelFiles:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(
            onnx.load_from_string(content), path, save_as_external_data=True, location="model.data", size_threshold=256
        )
        return ModelFiles(name, _read(path.parent), "model.onnx")


def _bundle(name: str, content: bytes) -> ModelFiles:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        return ModelFiles(name, _read(onnx2torch(path, Path(folder) / "model.rtool").output), "")


def _read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
