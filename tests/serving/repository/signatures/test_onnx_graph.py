"""What a signature needs from an ONNX file, and the refusal of a file without it."""

import pytest
from onnx import TensorProto, helper

from rtool.errors import InputError
from rtool.serving.repository.signatures.reading import read_signature


@pytest.mark.parametrize("lacking", ["x", "y"])
def test_a_tensor_without_a_shape_is_no_scalar(lacking, tmp_path):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    next(value for value in values if value.name == lacking).type.tensor_type.ClearField("shape")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=f"'{lacking}' states no shape"):
        read_signature(tmp_path / "m.onnx")
