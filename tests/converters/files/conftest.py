"""Models that keep one weight in another file, in every place where ONNX lets a tensor be."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

WEIGHT = np.arange(64, dtype=np.float32).reshape(8, 8) / 64
_GEMM = helper.make_node("Gemm", ["x", "w"], ["y"], name="gemm", transB=1)


def value(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8])


def external(entries, dims=(8, 8), dtype=TensorProto.FLOAT, name="w"):
    """A tensor whose data lies elsewhere; `entries` as the file states them."""
    tensor = TensorProto(name=name, data_type=dtype, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    return tensor


def model(nodes, initializers=(), functions=(), sparse=()):
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y")], [*initializers], sparse_initializer=[*sparse])
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[*functions])


def constant(tensor, output="w"):
    return helper.make_node("Constant", [], [output], name="constant", value=tensor)


def branch(nodes, initializers=()):
    gemm = helper.make_node("Gemm", ["x", "w"], ["taken"], name="inner", transB=1)
    then = helper.make_graph([*nodes, gemm], "then", [], [value("taken")], [*initializers])
    identity = helper.make_node("Identity", ["x"], ["other"])
    otherwise = helper.make_graph([identity], "else", [], [value("other")])
    flag = helper.make_tensor("flag", TensorProto.BOOL, [], [True])
    return model([helper.make_node("If", ["flag"], ["y"], name="if", then_branch=then, else_branch=otherwise)], [flag])


def function(nodes):
    body = [*nodes, helper.make_node("Gemm", ["a", "w"], ["b"], transB=1)]
    made = helper.make_function("local", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    return model([helper.make_node("F", ["x"], ["y"], name="call", domain="local")], functions=[made])


def sparse(values=None, indices=None):
    return helper.make_sparse_tensor(
        values or numpy_helper.from_array(np.ones(64, np.float32), "w"),
        indices or numpy_helper.from_array(np.arange(64), "i"),
        [8, 8],
    )


def listed(**attributes):
    return model([helper.make_node("F", ["x"], ["y"], name="call", domain="local", **attributes)])


CARRIERS: dict[str, tuple[Callable[..., onnx.ModelProto], tuple[int, ...], int]] = {
    "initializer": (lambda w: model([_GEMM], [w]), (8, 8), TensorProto.FLOAT),
    "Constant": (lambda w: model([constant(w), _GEMM]), (8, 8), TensorProto.FLOAT),
    "branch initializer": (lambda w: branch([], [w]), (8, 8), TensorProto.FLOAT),
    "branch Constant": (lambda w: branch([constant(w)]), (8, 8), TensorProto.FLOAT),
    "function Constant": (lambda w: function([constant(w)]), (8, 8), TensorProto.FLOAT),
    "attribute": (
        lambda w: model(
            [
                helper.make_node("Shape", ["x"], ["s"]),
                helper.make_node("ConstantOfShape", ["s"], ["c"], name="fill", value=w),
                helper.make_node("Add", ["x", "c"], ["y"]),
            ]
        ),
        (1,),
        TensorProto.FLOAT,
    ),
    "attribute list": (lambda w: listed(weights=[w]), (8, 8), TensorProto.FLOAT),
    "sparse Constant values": (
        lambda w: model([helper.make_node("Constant", [], ["w"], sparse_value=sparse(values=w)), _GEMM]),
        (64,),
        TensorProto.FLOAT,
    ),
    "sparse Constant indices": (
        lambda w: model([helper.make_node("Constant", [], ["w"], sparse_value=sparse(indices=w)), _GEMM]),
        (64,),
        TensorProto.INT64,
    ),
    "sparse initializer values": (lambda w: model([_GEMM], sparse=[sparse(values=w)]), (64,), TensorProto.FLOAT),
    "sparse initializer indices": (lambda w: model([_GEMM], sparse=[sparse(indices=w)]), (64,), TensorProto.INT64),
    "sparse attribute list": (lambda w: listed(weights=[sparse(values=w)]), (64,), TensorProto.FLOAT),
}
"""Where a tensor may be, with the shape and type it has there."""


@dataclass
class SplitModel:
    """A model in `folder` whose one external tensor is in `weights.bin` there; `secret` lies outside."""

    folder: object
    secret: object
    carrier: str = "initializer"
    entries: dict = field(default_factory=lambda: {"location": "weights.bin"})

    @property
    def path(self):
        return self.folder / "model.onnx"

    def size(self):
        _, dims, dtype = CARRIERS[self.carrier]
        return int(np.prod(dims)) * (8 if dtype == TensorProto.INT64 else 4)

    def content(self):
        _, _, dtype = CARRIERS[self.carrier]
        return (np.arange(64).tobytes() if dtype == TensorProto.INT64 else WEIGHT.tobytes())[: self.size()]

    def proto(self):
        build, dims, dtype = CARRIERS[self.carrier]
        return build(external(self.entries, dims, dtype))

    def write(self):
        self.path.write_bytes(self.proto().SerializeToString())
        return self.path


@pytest.fixture
def split(tmp_path, monkeypatch):
    """A sound model with its data file, a secret outside its folder, and another in the current folder."""
    for name in ("inside", "outside", "current"):
        (tmp_path / name).mkdir()
    made = SplitModel(tmp_path / "inside", tmp_path / "outside" / "secret.bin")
    for file in (made.folder / "weights.bin", made.secret, tmp_path / "current" / "secret.bin"):
        file.write_bytes(WEIGHT.tobytes() + WEIGHT.tobytes())
    monkeypatch.chdir(tmp_path / "current")
    return made


@pytest.fixture(params=CARRIERS)
def carrier(request):
    return request.param
