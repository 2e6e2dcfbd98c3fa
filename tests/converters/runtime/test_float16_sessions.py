"""A float16 model that ends ONNX Runtime's process at its last optimisations runs, in a process of its own."""

import subprocess
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CALL = """
import sys, numpy as np
from rtool.converters.runtime.runners import OnnxRunner
(rows,) = OnnxRunner("m.onnx").run(np.load("x.npy"))
np.save("y.npy", rows)
"""


def test_a_transpose_before_a_matmul_runs_in_float16(tmp_path):
    generator = np.random.default_rng(0)
    weight, x = (generator.standard_normal(shape).astype(np.float16) for shape in ((8, 6), (2, 5, 8)))
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "w"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N", 5, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [5, "N", 6])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", x)
    done = subprocess.run([sys.executable, "-c", CALL], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = x.transpose(1, 0, 2).astype(np.float64) @ weight.astype(np.float64)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=4e-3, atol=4e-3)  # float16 has 11 bits
