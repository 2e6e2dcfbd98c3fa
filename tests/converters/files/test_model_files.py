"""All files of a model are found, wherever its weights are said to be."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from rtool.converters.files.model_files import files_of


def external(name, location, folder):
    """A weight of 2 x 2 zeros in a file of its own."""
    (folder / location).write_bytes(bytes(16))
    tensor = numpy_helper.from_array(np.zeros((2, 2), np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def value(name):
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 2])


def test_weights_of_graph_constants_and_branches_belong_to_the_model(tmp_path):
    branches = {
        f"{which}_branch": helper.make_graph(
            [helper.make_node("MatMul", ["c", f"w_{which}"], [which])],
            which,
            [],
            [value(which)],
            [external(f"w_{which}", f"{which}.bin", tmp_path)],
        )
        for which in ("then", "else")
    }
    nodes = [
        helper.make_node("Constant", [], ["k"], value=external("", "constant.bin", tmp_path)),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "k"], ["c"]),
        helper.make_node("If", ["flag"], ["y"], **branches),
    ]
    flag = helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, [])
    weights = [external("w", "weights.bin", tmp_path)]
    graph = helper.make_graph(nodes, "model", [value("x"), flag], [value("y")], weights)
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    files = files_of(path)
    assert files[0] == path
    assert {file.name for file in files[1:]} == {"weights.bin", "constant.bin", "then.bin", "else.bin"}


def test_a_folder_stands_for_what_is_in_it(tmp_path):
    assert files_of(tmp_path) == (tmp_path,)
