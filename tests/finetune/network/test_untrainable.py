"""A model that cannot be trained is refused with the true cause."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from rtool.errors import InputError
from rtool.finetune.config.config import ModelConfig
from rtool.finetune.network.networks import load_network


def saved(path, dtype=np.float32, others=("q",), reads=(), images_first=True):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    values = np.random.default_rng(0).standard_normal
    inputs = [helper.make_tensor_value_info("images", kind, ["N", 3, 16, 8])]
    more = [helper.make_tensor_value_info(name, kind, ["N", 4]) for name in others]
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["e0"]),
        *(helper.make_node("Add", [f"e{index}", name], [f"e{index + 1}"]) for index, name in enumerate(reads)),
    ]
    outputs = [helper.make_tensor_value_info(f"e{len(reads)}", kind, ["N", 4])]
    weights = [numpy_helper.from_array(values((4, 3, 3, 3)).astype(dtype), "w")]
    graph = helper.make_graph(nodes, "g", inputs + more if images_first else more + inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return ModelConfig(reference=str(path), preprocessing="imagenet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": np.float64, "others": ()}, "weight 'conv.weight' is float64, and training is in float32"),
        ({"reads": ["q"]}, "takes images, q and reads images, q; training gives a network its images alone"),
        ({"images_first": False}, "takes q, images; training gives a network its first input: put the images first"),
    ],
)
def test_the_cause_is_named(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        load_network(saved(tmp_path / "m.onnx", **options))


def test_an_input_that_nothing_reads_is_no_obstacle(tmp_path):
    assert load_network(saved(tmp_path / "m.onnx")).dimension == 4
