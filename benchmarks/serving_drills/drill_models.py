"""The models that the drills serve: the demo's OSNet as A, a scaled one as B, and files that no server should serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ...converters.exporting.pipeline import export
from ..places import DEMO_MODEL

__all__ = ["DrillModels", "golden", "make_models", "nearest_of"]

ROWS = 64
_SEED = 5


@dataclass(frozen=True)
class DrillModels:
    """Files by name: `A` and `B`, and `U` on uint8 pixels; a 16 behind the name: of that batch, else open."""

    files: Mapping[str, Path]
    poisons: Mapping[str, Path]
    images: NDArray[np.float32]
    """[64, 3, H, W], the probes that every answer is compared on."""


def make_models(folder: Path) -> DrillModels:
    """Export and spoil the demo's model in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, factor in (("A", 1.0), ("B", 0.5)):
        scaled = _scaled(factor, folder / f"{name}.source.onnx")
        for suffix, batch in (("", "dynamic"), ("16", 16)):
            options: Any = {"batch": batch}
            files[name + suffix] = Path(export(scaled, folder / f"{name}{suffix}.onnx", **options).path)
    for name, size in (("U", "dynamic"), ("U16", 16)):
        uint8: Any = {"batch": size, "embed_preprocessing": True}
        files[name] = Path(export(DEMO_MODEL, folder / f"{name}.onnx", **uint8).path)
    shape = [dim.dim_value for dim in onnx.load(DEMO_MODEL).graph.input[0].type.tensor_type.shape.dim]
    images = np.random.default_rng(_SEED).standard_normal((ROWS, *shape[1:])).astype(np.float32)
    return DrillModels(files, _poisons(files, folder), images)


def golden(file: Path, images: NDArray[np.float32], batch: int = 16) -> NDArray[np.float32]:
    """The embeddings of ONNX Runtime in this process, one thread, in batches."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: images[at : at + batch]})[0] for at in range(0, len(images), batch)]
    return np.concatenate(parts)


def nearest_of(answer: NDArray[np.float32], wanted: Mapping[str, NDArray[np.float32]]) -> str | None:
    """Whose answer it is, within 1e-4 of the largest value (sums are rounded by batch); None: nobody's."""
    for name, expected in wanted.items():
        if answer.shape == expected.shape and np.abs(answer - expected).max() <= 1e-4 * np.abs(expected).max():
            return name
    return None


def _scaled(factor: float, path: Path) -> Path:
    """The demo's model with the weights of its last product scaled, in graph order."""
    model = onnx.load(DEMO_MODEL)
    weights = {initializer.name: initializer for initializer in model.graph.initializer}
    last = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul") and node.input[1] in weights][-1]
    target = weights[last.input[1]]
    array = numpy_helper.to_array(target) * np.float32(factor)
    target.CopyFrom(numpy_helper.from_array(array.astype(np.float32), target.name))
    onnx.save(model, path)
    return path


def _poisons(files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """NaN weights, other dims, weights swapped behind the manifest, and fresh noise in every run."""
    poisons = {}
    for name in ("nan", "dims", "swapped", "random"):
        model = onnx.load(files["A"])
        output = model.graph.output[0].name
        if name == "nan":
            _spoil(model, np.nan)
        elif name == "swapped":
            _spoil(model, 0.25)
        elif name == "dims":
            _after(model, helper.make_node("Concat", ["", ""], [output], axis=1))
            model.graph.output[0].type.tensor_type.shape.dim[1].dim_value *= 2
        else:
            _after(model, helper.make_node("RandomNormalLike", [""], [output], scale=1.0))
        poisons[name] = folder / f"poison-{name}.onnx"
        onnx.save(model, poisons[name])
        if name == "swapped":  # beside it, the manifest of the file that it pretends to be
            manifest = files["A"].with_name(f"{files['A'].name}.manifest.json")
            poisons[name].with_name(f"{poisons[name].name}.manifest.json").write_bytes(manifest.read_bytes())
    return poisons


def _spoil(model: onnx.ModelProto, factor: float) -> None:
    largest = max(model.graph.initializer, key=lambda initializer: int(np.prod(initializer.dims)))
    array = numpy_helper.to_array(largest) * np.float32(factor)
    largest.CopyFrom(numpy_helper.from_array(array.astype(np.float32), largest.name))


def _after(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Put `node` behind the output, which keeps its name; the node's empty inputs are what computed it before."""
    output = node.output[0]
    for other in model.graph.node:
        for index, name in enumerate(other.output):
            if name == output:
                other.output[index] = f"{output}_before"
    for index in range(len(node.input)):
        node.input[index] = f"{output}_before"
    model.graph.node.append(node)
