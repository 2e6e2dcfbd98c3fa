"""What a list of nodes to keep in float32 may look like, and what a narrow step says it did."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.converters.exporting.reduced_precision import convert_to_half, read_float32_nodes
from rtool.converters.exporting.step_log import StepLog, unit_length
from rtool.converters.passes.preprocessing_embedding import embed_preprocessing
from rtool.converters.records.preprocessing import Preprocessing
from rtool.converters.runtime.runners import OnnxRunner
from rtool.errors import InputError


@pytest.mark.parametrize("content", ["abc", {"kept_in_float32": "abc"}, [1, 2], {"kept_in_float32": None}, 7])
def test_what_is_no_list_of_names_is_refused(content, tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="JSON list of node names"):
        read_float32_nodes(path)


def network(weight: np.ndarray) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "w"], ["y"], name="matmul"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weights() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((48, 6)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_small_network_is_narrowed_behind_its_embedded_preprocessing(dtype):
    """The seven added nodes stay in float32 and are more than a tenth of the graph; they are not the network's."""
    preprocessing = Preprocessing(4, 4)
    pixels = np.random.default_rng(1).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    raw = OnnxRunner(network(weights())).run(preprocessing.normalise(pixels))
    log = StepLog((pixels,), unit_length(raw))
    narrow, kept = convert_to_half(embed_preprocessing(network(weights()), preprocessing), log, dtype=dtype)
    assert kept == ()
    assert log.steps[-1].detail == "2 Casts added, 0 float32 nodes"
    assert narrow.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8


def test_weights_that_vanish_are_told():
    weight = weights()
    weight[0, :2] = 1e-9
    images = np.random.default_rng(1).standard_normal((4, 3, 4, 4)).astype(np.float32)
    log = StepLog((images,), OnnxRunner(network(weight)).run(images))
    convert_to_half(network(weight), log)
    assert log.steps[-1].detail.endswith(", 2 weights underflow to 0 in float16 (the measured cosine includes it)")
