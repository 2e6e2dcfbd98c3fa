"""`onnx2torch` writes a bundle only after the module has shown ONNX Runtime's numbers."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rtool.converters import load_bundle, onnx2torch, onnx_to_torch
from rtool.converters.weights.state_dict_loading import load_state_dict_file
from rtool.errors import GateError, InputError


def test_parity_is_measured_and_the_bundle_written(model_file, tmp_path):
    result = onnx2torch(model_file, tmp_path / "m.rtool")
    assert [entry.batch for entry in result.parity] == [1, 2, 3, 16]
    assert all(entry.parity.max_rel <= 1e-5 for entry in result.parity)
    assert result.trainable == result.parameters > 0
    assert load_bundle(result.output).preprocessing == result.preprocessing


def test_a_large_network_is_checked_at_small_batches_and_a_baked_in_one_at_its_own(exported, tmp_path, monkeypatch):
    path = tmp_path / "fixed.onnx"
    path.write_bytes(exported("cnn", "ts", 11, 4)[1].SerializeToString())
    assert [entry.batch for entry in onnx2torch(path, tmp_path / "fixed.rtool").parity] == [4]
    monkeypatch.setattr("rtool.converters.runtime.batches.file_batch._SMALL", 100)
    path.write_bytes(exported("cnn", "ts", 13)[1].SerializeToString())
    assert [entry.batch for entry in onnx2torch(path, tmp_path / "large.rtool").parity] == [1, 2, 3]


def test_the_default_output_lies_in_the_working_folder(model_file, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    assert onnx2torch(model_file).output.resolve() == work / "small.rtool"


def test_a_missed_tolerance_leaves_nothing_behind(model_file, tmp_path):
    with pytest.raises(GateError, match="nothing was written"):
        onnx2torch(model_file, tmp_path / "m.rtool", tolerance=0.0)
    assert not (tmp_path / "m.rtool").exists()


def test_batchnorms_are_restored_on_calibration_images(model_file, tmp_path, images):
    batches = [torch.from_numpy(images(8))]
    result = onnx2torch(model_file, tmp_path / "m.rtool", restore_bn=True, calibrate=batches)
    assert {entry.after for entry in result.restored.restored} >= {"stem.0", "layer1.0.conv1"}
    module = load_bundle(result.output).module
    assert isinstance(module.get_submodule("stem.1"), torch.nn.BatchNorm2d)
    with torch.no_grad():
        expected = onnx_to_torch(model_file)(batches[0])
        assert (module(batches[0]) - expected).abs().max() <= 1e-5 * expected.abs().max()
    with pytest.raises(InputError, match="--calibrate"):
        onnx2torch(model_file, tmp_path / "n.rtool", restore_bn=True)


def test_names_that_nobody_knows_are_refused_with_the_tensors_that_shapes_do_not_tell_apart(model_file, tmp_path):
    module = onnx_to_torch(model_file)
    state = {f"module.{name}": tensor + 1 for name, tensor in module.state_dict().items()}
    renamed = {name.replace("layer1", "blocks"): tensor for name, tensor in state.items()}
    torch.save({"state_dict": renamed}, tmp_path / "fused.pth")
    with pytest.raises(
        InputError, match=r"neither names nor shapes tell .*layer1\.0\.conv1\.weight 8x8x1x1.*save them"
    ):
        onnx2torch(model_file, tmp_path / "m.rtool", weights=tmp_path / "fused.pth")
    assert not (tmp_path / "m.rtool").exists()


def test_a_partial_match_is_refused_unless_asked_for(model_file, tmp_path):
    state = onnx_to_torch(model_file).state_dict()
    del state["fc.0.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(InputError, match=r"1 of the network is missing \(fc\.0\.weight\)"):
        onnx2torch(model_file, tmp_path / "m.rtool", weights=tmp_path / "part.pth")
    result = onnx2torch(model_file, tmp_path / "m.rtool", weights=tmp_path / "part.pth", allow_partial=True)
    assert result.weights.missing == ("fc.0.weight",)


def test_pickled_objects_are_not_opened(model_file, tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(InputError, match="expected a state_dict"):
        onnx2torch(model_file, tmp_path / "m.rtool", weights=tmp_path / "model.pth")


def unfused_weights(exported, path, seed=1):
    """A state_dict as the original network would be trained to: other weights, its BatchNorms apart."""
    original, _ = exported("cnn", "ts", 13)
    trained, draw = copy.deepcopy(original), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
    torch.save(trained.state_dict(), path)
    return trained


def test_the_unfused_originals_weights_load_into_restored_batchnorms(model_file, exported, tmp_path, images):
    trained = unfused_weights(exported, tmp_path / "trained.pth")
    options = {"restore_bn": True, "calibrate": [torch.from_numpy(images(8))], "weights": tmp_path / "trained.pth"}
    result = onnx2torch(model_file, tmp_path / "m.rtool", **options)
    assert result.weights.missing == result.weights.unused == ()
    x = torch.from_numpy(images(3))
    with torch.no_grad():
        expected, got = trained(x), load_bundle(result.output).module(x)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    link = load_bundle(result.output).record.chain[-1]
    assert (link.step, link.facts["file"], link.facts["unfused"]) == ("weights", "trained.pth", True)


def test_weights_that_do_not_fill_the_restored_network_are_refused(model_file, exported, tmp_path, images):
    unfused_weights(exported, tmp_path / "trained.pth")
    state = torch.load(tmp_path / "trained.pth", weights_only=True)
    options = {"restore_bn": True, "calibrate": [torch.from_numpy(images(8))], "weights": tmp_path / "other.pth"}
    torch.save({key: value for key, value in state.items() if key != "stem.1.weight"}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"1 of the network is missing \(stem\.1\.weight\)"):
        onnx2torch(model_file, tmp_path / "m.rtool", **options)
    torch.save({**state, "stem.0.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"another shape \(stem\.0\.weight: 3x3 in the file, 8x3x3x3 in the network"):
        onnx2torch(model_file, tmp_path / "m.rtool", **options)
    assert not (tmp_path / "m.rtool").exists()


def test_a_transposed_weight_of_the_same_name_is_refused(model_file, tmp_path):
    state = onnx_to_torch(model_file).state_dict()
    name = next(name for name, tensor in state.items() if tensor.ndim == 2 and tensor.shape[0] != tensor.shape[1])
    state[name] = state[name].t()
    torch.save(state, tmp_path / "turned.pth")
    with pytest.raises(InputError, match=f"1 has another shape \\({name}: "):
        onnx2torch(model_file, tmp_path / "m.rtool", weights=tmp_path / "turned.pth")


@pytest.mark.parametrize("inside", ["source", "weights"])
def test_a_bundle_that_holds_what_is_read_is_not_replaced(model_file, tmp_path, inside):
    bundle = onnx2torch(model_file, tmp_path / "m.rtool").output
    weights = bundle / "fused.pth"
    torch.save(onnx_to_torch(model_file).state_dict(), weights)
    source = bundle / "mine.onnx"
    source.write_bytes(model_file.read_bytes())
    given = (source, None) if inside == "source" else (model_file, weights)
    with pytest.raises(InputError, match=r"lies in .* which would be replaced"):
        onnx2torch(given[0], bundle, weights=given[1], overwrite=True)
    assert source.exists()
    assert weights.exists()


def test_a_damaged_weights_file_is_refused_whatever_it_breaks(model_file, tmp_path):
    state = onnx_to_torch(model_file).state_dict()
    file = tmp_path / "fused.pth"
    torch.save(state, file)
    sound = file.read_bytes()
    pickled = sound.index(b"data.pkl") + 60
    damaged = [b"junk" * 100, b"", sound[:100], sound[: len(sound) // 2]]
    damaged += [sound[:at] + bytes([sound[at] ^ 0x15]) + sound[at + 1 :] for at in range(pickled, pickled + 60)]
    messages = []
    for content in damaged:
        file.write_bytes(content)
        try:
            load_state_dict_file(onnx_to_torch(model_file), file)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 40  # some bits hit what does not matter
    assert not any("weights_only" in message for message in messages)


def test_weights_that_are_no_numbers_are_refused(model_file, tmp_path):
    state = onnx_to_torch(model_file).state_dict()
    name = next(iter(state))
    torch.save(state | {name: state[name] * float("nan")}, tmp_path / "fused.pth")
    with pytest.raises(InputError, match=rf"fused\.pth: weight '{name}' holds NaN"):
        onnx2torch(model_file, tmp_path / "m.rtool", weights=tmp_path / "fused.pth")
    assert not (tmp_path / "m.rtool").exists()


@pytest.mark.parametrize("options", [{}, {"axis": 1}, {"axis": 0, "block_size": 16}])
def test_networks_of_quantised_weights_are_held_to_what_the_file_says(tmp_path, options):
    """ONNX Runtime would quantise the activations as well, and differ by a hundredth from its own file."""
    random = np.random.default_rng(0)
    levels = random.integers(-127, 127, (64, 64)).astype(np.int8)
    scale = random.random({0: (), 1: (64,), 2: (4, 64)}[len(options)]).astype(np.float32) * 0.1
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], **options),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy"]
    weights = [numpy_helper.from_array(levels, "q"), numpy_helper.from_array(np.asarray(scale), "s")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    opset = helper.make_opsetid("", 21 if len(options) == 2 else 13)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "q.onnx")
    result = onnx2torch(tmp_path / "q.onnx", tmp_path / "q.rtool")
    assert all(entry.parity.max_rel <= 1e-5 for entry in result.parity)
