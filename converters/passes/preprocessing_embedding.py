"""Embed preprocessing into the graph: uint8 images [N, H, W, C] in, L2-normalised embeddings out.

A client then sends a quarter of the bytes and cannot preprocess wrongly. Resizing stays outside: the graph expects
images of the network's size, in RGB (or grey) order. The nodes are added in this order:

1. Gather: RGB to BGR, if the network expects BGR;
2. Transpose: NHWC to NCHW, if the network expects NCHW;
3. Cast to float32, Sub mean, Div std;
4. at each output of rank 2: ReduceL2, Max with 1e-12, Div.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import InputError
from ..files.model_file import ModelFile
from ..operators.refusals import shapes_contradict
from ..records.preprocessing import Preprocessing
from ..records.record import TensorSpec
from ..runtime.probes.open_sizes import image_index

__all__ = ["EMBEDDED_PREFIX", "embed_preprocessing"]

EMBEDDED_PREFIX = "preprocess/"
"""Prefix of the names of the added nodes; the conversion to fp16 leaves these nodes in float32."""
SMALLEST_NORM = 1e-12
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def embed_preprocessing(
    model: onnx.ModelProto, preprocessing: Preprocessing, *, normalise_output: bool = True
) -> onnx.ModelProto:
    """A copy of `model` whose image input is uint8 pixels [N, H, W, C] in 0..255.

    The arithmetic is `(pixel - mean) / std` in float32, bit for bit that of `Preprocessing.normalise`. Every output
    of rank 2 is divided by its L2 norm when `normalise_output`.

    Raises:
        InputError: the model does not have exactly one image input, of floats and of the preprocessing's size.

    Examples:
        >>> pixels = rtool.converters.Preprocessing(height=16, width=8)
        >>> onnx.save(rtool.converters.embed_preprocessing(onnx.load("model.onnx"), pixels), "pixels.onnx")
        >>> rtool.inspect("pixels.onnx").inputs[0].dtype
        'uint8'
    """
    graph_model = ModelFile.of(model).ir_model()
    graph = graph_model.graph
    old = _image_input(graph, preprocessing)
    batch = old.shape[0] if old.shape is not None else "batch"
    size = (preprocessing.height, preprocessing.width, preprocessing.channels)
    pixels = ir.Value(name=f"{old.name}_uint8", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape([batch, *size]))
    nodes = _normalising(graph, pixels, preprocessing)
    if old.dtype != ir.DataType.FLOAT:  # the arithmetic is in float32, the network goes on in its own type
        nodes.append(_cast(nodes[-1].outputs[0], old.dtype, "to_network"))
    if old.is_graph_output():
        raise InputError(
            f"embed preprocessing: the image input '{old.name}' is an output too, which would be pixels then"
        )
    if not list(old.uses()):
        raise InputError(f"embed preprocessing: no node reads the image input '{old.name}'")
    old.replace_all_uses_with(nodes[-1].outputs[0])
    graph.inputs[list(graph.inputs).index(old)] = pixels
    first = next(iter(graph))
    graph.insert_before(first, nodes)
    if old.name:
        pixels.name, old.name = old.name, None
    if normalise_output:
        matrices = [value for value in graph.outputs if _is_matrix(value)]
        for index, value in enumerate(matrices):
            unit = _unit_length(graph, value, f"_{index}" if index else "")
            graph.outputs[list(graph.outputs).index(value)] = unit
            value.name, unit.name = unit.name, value.name
    result = ir.to_proto(graph_model)
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise shapes_contradict("embed preprocessing", error) from error
    return result


def _is_matrix(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == 2 and value.dtype in _FLOATS


def _image_input(graph: ir.Graph, preprocessing: Preprocessing) -> ir.Value:
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    candidates = [value for value in inputs if value.dtype in _FLOATS and value.shape is not None]
    index = image_index([_spec_of(value) for value in candidates])
    expected = [preprocessing.channels, preprocessing.height, preprocessing.width]
    if preprocessing.layout == "nhwc":
        expected = [*expected[1:], expected[0]]
    if index is None:
        found = ", ".join(f"{value.name} ({value.type}, {value.shape})" for value in inputs)
        raise InputError(f"embed preprocessing: expected one image input of floats with four axes, got {found}")
    image = candidates[index]
    shape = list(image.shape or ())
    sizes = shape[1:]
    if any(isinstance(size, int) and size != want for size, want in zip(sizes, expected, strict=True)):
        raise InputError(
            f"embed preprocessing: input '{image.name}' is {shape}, the preprocessing makes "
            f"images {expected}; state the model's own preprocessing"
        )
    return image


def _spec_of(value: ir.Value) -> TensorSpec:
    sizes = [size if isinstance(size, int) else size.value for size in value.shape or ()]
    return TensorSpec(value.name or "", "float32", tuple(sizes))


def _normalising(graph: ir.Graph, pixels: ir.Value, preprocessing: Preprocessing) -> list[ir.Node]:
    nodes, value = [], pixels

    def add(operator: str, inputs: list[ir.Value], name: str, **attributes: int | list[int]) -> ir.Value:
        node = ir.node(operator, inputs, attributes, name=f"{EMBEDDED_PREFIX}{name}")
        node.outputs[0].name = f"{node.name}_out"
        nodes.append(node)
        return node.outputs[0]

    shape = [1, 1, 1, preprocessing.channels]
    if preprocessing.channel_order == "bgr":
        value = add("Gather", [value, _weight(graph, "order", np.array([2, 1, 0]))], "to_bgr", axis=3)
    if preprocessing.layout == "nchw":
        value = add("Transpose", [value], "to_nchw", perm=[0, 3, 1, 2])
        shape = [1, preprocessing.channels, 1, 1]
    value = add("Cast", [value], "to_float", to=ir.DataType.FLOAT.value)
    mean = _weight(graph, "mean", np.asarray(preprocessing.mean, np.float32).reshape(shape))
    value = add("Sub", [value, mean], "minus_mean")
    add("Div", [value, _weight(graph, "std", np.asarray(preprocessing.std, np.float32).reshape(shape))], "over_std")
    return nodes


def _unit_length(graph: ir.Graph, value: ir.Value, suffix: str) -> ir.Value:
    """Add nodes that divide `value` by max(its L2 norm, 1e-12); `suffix` makes their names unique per output."""
    axes = {"axes": [1], "keepdims": 1}
    casts = value.dtype != ir.DataType.FLOAT  # a norm in 16 bits overflows
    widened = [_cast(value, ir.DataType.FLOAT, f"widened{suffix}")] if casts else []
    wide = widened[0].outputs[0] if casts else value
    inputs: list[ir.Value] = [wide]
    if graph.opset_imports.get("", 0) >= 18:
        axes = {"keepdims": 1}
        inputs.append(_weight(graph, "axis", np.array([1])))
    norm = ir.node("ReduceL2", inputs, axes, name=f"{EMBEDDED_PREFIX}norm{suffix}")  # type: ignore[arg-type]
    floor = _weight(graph, "smallest_norm", np.asarray([SMALLEST_NORM], np.float32))
    bounded = ir.node("Max", [norm.outputs[0], floor], name=f"{EMBEDDED_PREFIX}positive_norm{suffix}")
    unit = ir.node("Div", [wide, bounded.outputs[0]], name=f"{EMBEDDED_PREFIX}unit_length{suffix}")
    for node in (norm, bounded, unit):
        node.outputs[0].name = f"{node.name}_out"
    narrowed = [_cast(unit.outputs[0], value.dtype, f"as_before{suffix}")] if casts else []
    added = [*widened, norm, bounded, unit, *narrowed]
    result = added[-1].outputs[0]
    result.type, result.shape = value.type, value.shape
    graph.extend(added)
    return result


def _cast(value: ir.Value, dtype: ir.DataType | None, name: str) -> ir.Node:
    assert dtype is not None
    node = ir.node("Cast", [value], {"to": dtype.value}, name=f"{EMBEDDED_PREFIX}{name}")
    node.outputs[0].name = f"{node.name}_out"
    return node


def _weight(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    full = f"{EMBEDDED_PREFIX}{name}"
    if full in graph.initializers:
        return graph.initializers[full]
    tensor = ir.tensor(np.ascontiguousarray(array), name=full)
    value = ir.Value(name=full, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value
