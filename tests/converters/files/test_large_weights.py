"""Large weights stay in the file until they are needed: same module, same refusals, same digest."""

import hashlib

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rtool.converters.files.file_tensor import FileTensor
from rtool.converters.files.large_weights import outline_of
from rtool.converters.files.model_file import ModelFile, source_of
from rtool.converters.lowering.conversion import onnx_to_torch
from rtool.converters.records.record import require_record
from rtool.errors import InputError

LARGE = np.random.default_rng(0).standard_normal((520, 520)).astype(np.float32)


def network(*, doc="x"):
    """A large matrix, a small vector; `doc` moves the weights to an odd address."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    weights = [numpy_helper.from_array(LARGE, "w"), numpy_helper.from_array(LARGE[0], "b")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 520]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights, doc_string=doc)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("doc", ["", "a", "ab", "abc"])
def test_a_mapped_file_gives_the_module_of_the_parsed_one(tmp_path, doc):
    model, path = network(doc=doc), tmp_path / "m.onnx"
    onnx.save(model, path)
    mapped, parsed = onnx_to_torch(path), onnx_to_torch(model)
    assert mapped.state_dict().keys() == parsed.state_dict().keys()
    for name, tensor in parsed.state_dict().items():
        assert torch.equal(mapped.state_dict()[name], tensor)
    assert mapped.code == parsed.code
    assert require_record(mapped).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_only_the_large_weight_stays_in_the_file_and_reads_back_bit_for_bit(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(network(), path)
    for file in (ModelFile.mapped(path), ModelFile.read(path)):
        assert len(file.outline.SerializeToString()) < LARGE.nbytes / 10
        weights = file.ir_model().graph.initializers
        assert isinstance(weights["w"].const_value, FileTensor)
        assert not isinstance(weights["b"].const_value, FileTensor)
        np.testing.assert_array_equal(weights["w"].const_value.numpy(), LARGE)
        assert file.proto() == network()


def test_a_file_replaced_after_loading_still_gives_its_own_weights(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(network(), path)
    loaded = ModelFile.mapped(path).ir_model()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    other = tmp_path / "other.onnx"
    other.write_bytes(b"another file")
    other.replace(path)
    np.testing.assert_array_equal(loaded.graph.initializers["w"].const_value.numpy(), LARGE)
    assert source_of(loaded).sha256 == digest


def test_a_file_cut_after_loading_is_refused(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(network(), path)
    loaded = ModelFile.mapped(path).ir_model()
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match="'w': the file was cut short"):
        loaded.graph.initializers["w"].const_value.numpy()


def test_unusual_bytes_are_left_to_the_parser(tmp_path):
    data = network().SerializeToString()
    wrong_shape = network()
    wrong_shape.graph.initializer[0].dims[0] = 519
    twice = network()
    twice.graph.initializer.append(twice.graph.initializer[0])
    cases = [data[:-1], data[:600_000], data + b"\x0b", b"", wrong_shape.SerializeToString(), twice.SerializeToString()]
    for index, content in enumerate(cases):
        path = tmp_path / f"{index}.onnx"
        path.write_bytes(content)
        assert outline_of(content) is None
        with pytest.raises(InputError):
            onnx_to_torch(path)
    for absent in (tmp_path / "missing.onnx", tmp_path):
        with pytest.raises(InputError):
            ModelFile.mapped(absent)


def test_small_and_typed_weights_are_parsed(tmp_path):
    path = tmp_path / "m.onnx"
    model = network()
    model.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.FLOAT, LARGE.shape, LARGE.reshape(-1)))
    onnx.save(model, path)
    assert outline_of(path.read_bytes()) is None
    weight = onnx_to_torch(path).state_dict()
    assert any(torch.equal(tensor, torch.from_numpy(LARGE.T)) for tensor in weight.values())
