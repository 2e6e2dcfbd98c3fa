"""A graph with embedded preprocessing computes from pixels what the network computes from prepared images."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rtool.converters import Preprocessing, embed_preprocessing
from rtool.errors import InputError

SIZE = (6, 4)


def network(layout: str = "nchw", opset: int = 17, channels: int = 3) -> onnx.ModelProto:
    """Flatten and multiply by a matrix, with another weight for every pixel and channel."""
    shape = ["n", channels, *SIZE] if layout == "nchw" else ["n", *SIZE, channels]
    weight = np.random.default_rng(0).standard_normal((channels * 24, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


PREPROCESSINGS = {
    "rgb": Preprocessing(*SIZE),
    "bgr": Preprocessing(*SIZE, mean=(1, 2, 3), std=(4, 5, 6), channel_order="bgr"),
    "nhwc": Preprocessing(*SIZE, layout="nhwc"),
    "grey": Preprocessing(*SIZE, mean=(127.5,), std=(127.5,), channel_order="grey"),
}


@pytest.mark.parametrize("opset", [12, 17, 20])
@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_pixels_in_unit_embeddings_out(name, opset):
    preprocessing = PREPROCESSINGS[name]
    model = network(preprocessing.layout, opset, preprocessing.channels)
    embedded = embed_preprocessing(model, preprocessing)
    pixels = np.random.default_rng(1).integers(0, 256, (3, *SIZE, preprocessing.channels), dtype=np.uint8)
    (raw,) = ReferenceEvaluator(model).run(None, {"images": preprocessing.normalise(pixels)})
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    (got,) = ReferenceEvaluator(embedded).run(None, {"images": pixels})
    assert np.allclose(got, expected, rtol=1e-6, atol=1e-7)
    assert [value.name for value in (*embedded.graph.input, *embedded.graph.output)] == ["images", "embedding"]
    assert embedded.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8


def test_the_arithmetic_is_that_of_normalise_bit_for_bit():
    preprocessing = PREPROCESSINGS["rgb"]
    embedded = embed_preprocessing(network(), preprocessing, normalise_output=False)
    pixels = np.random.default_rng(1).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    embedded.graph.output.append(helper.make_empty_tensor_value_info("preprocess/over_std_out"))
    _, prepared = ReferenceEvaluator(embedded).run(None, {"images": pixels})
    assert np.array_equal(prepared, preprocessing.normalise(pixels))


def test_a_zero_embedding_stays_zero():
    model = network()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((72, 5), np.float32), "w"))
    embedded = embed_preprocessing(model, PREPROCESSINGS["rgb"])
    (got,) = ReferenceEvaluator(embedded).run(None, {"images": np.zeros((1, *SIZE, 3), np.uint8)})
    assert not got.any()


def test_an_input_of_another_size_is_refused():
    with pytest.raises(InputError, match="'images'"):
        embed_preprocessing(network(), Preprocessing(8, 4))
    embedded = embed_preprocessing(network(), PREPROCESSINGS["rgb"])
    with pytest.raises(InputError, match="one image input of floats"):
        embed_preprocessing(embedded, PREPROCESSINGS["rgb"])


def test_every_matrix_that_comes_out_is_normalised_and_keeps_its_name():
    model = network()
    model.graph.node.append(helper.make_node("Neg", ["embedding"], ["second"]))
    model.graph.output.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, ["n", 5]))
    embedded = embed_preprocessing(model, PREPROCESSINGS["rgb"])
    assert [value.name for value in embedded.graph.output] == ["embedding", "second"]
    pixels = np.random.default_rng(1).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
    first, second = ReferenceEvaluator(embedded).run(None, {"images": pixels})
    assert np.allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-6)
    assert np.allclose(second, -first, rtol=1e-6)
