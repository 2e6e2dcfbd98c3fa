"""Names and widths of ONNX's element types are those of onnx-ir, for every type of the specification."""

import onnx
import onnx_ir as ir
import pytest

from rtool.converters.files.element_types import FLOATS, INTEGERS, bits_of, name_of, numpy_name_of


@pytest.mark.parametrize("name", onnx.TensorProto.DataType.keys())
def test_every_type_is_as_onnx_ir_knows_it(name: str):
    number = onnx.TensorProto.DataType.Value(name)
    known = ir.DataType(number)
    assert name_of(number) == known.name
    assert (number in FLOATS) == known.is_floating_point()
    assert (number in INTEGERS) == known.is_integer()
    if name not in ("UNDEFINED", "STRING"):
        assert bits_of(number) == known.bitwidth
        assert numpy_name_of(number) == known.numpy().name
