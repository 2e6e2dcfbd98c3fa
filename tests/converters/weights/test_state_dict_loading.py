"""State_dicts are copied into modules by name, whole or not at all, and the report says from where."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rtool.converters.batchnorm.restore import restore_batchnorm
from rtool.converters.lowering.conversion import onnx_to_torch
from rtool.converters.weights.state_dict_files import read_state_dict
from rtool.converters.weights.state_dict_loading import (
    MatchedWeight,
    is_unfused,
    load_state_dict_file,
)
from rtool.errors import InputError

STRICT = {"may_lack": lambda _: False, "may_have_others": False, "way_out": "mend it"}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def same(module, state):
    return all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_what_was_loaded_removed_and_ignored_is_reported(tmp_path):
    state = {f"model.{name}": value for name, value in network(1).state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, "optimizer": {}}, tmp_path / "last.ckpt")
    module = network()
    match = load_state_dict_file(module, tmp_path / "last.ckpt", **STRICT)
    assert same(module, network(1).state_dict())
    assert match.matched[0] == MatchedWeight("0.weight", "model.0.weight", "name")
    assert (match.missing, match.unused) == ((), ())
    origin = match.origin
    assert (origin.container, origin.removed, origin.ignored) == ("state_dict", ("model.",), ("epoch", "optimizer"))
    assert origin.sha256 == read_state_dict(tmp_path / "last.ckpt").sha256
    assert str(match) == (
        "9 tensors loaded; read from 'state_dict'; 'model.' removed from the names; other entries ignored: epoch, "
        "optimizer"
    )


def test_a_file_read_once_serves_several_calls(tmp_path):
    torch.save(network(1).state_dict(), tmp_path / "w.pth")
    state = read_state_dict(tmp_path / "w.pth")
    (tmp_path / "w.pth").unlink()
    module = network()
    assert not is_unfused(module, state)
    load_state_dict_file(module, state, **STRICT)
    assert same(module, network(1).state_dict())


def test_old_files_without_counters_are_whole(tmp_path):
    state = {name: value for name, value in network(1).state_dict().items() if "batches" not in name}
    torch.save(state, tmp_path / "w.pth")
    assert load_state_dict_file(network(), tmp_path / "w.pth", **STRICT).missing == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_converted_to_the_networks(tmp_path, dtype):
    state = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in network(1).state_dict().items()
    }
    torch.save(state, tmp_path / "w.pth")
    module = network()
    load_state_dict_file(module, tmp_path / "w.pth", **STRICT)
    assert module[0].weight.dtype == torch.float32
    assert torch.equal(module[0].weight, state["0.weight"].float())


def test_tensors_that_share_storage_are_copied_apart(tmp_path):
    flat = torch.arange(18.0)
    state = {
        **network(1).state_dict(),
        "0.bias": flat[:4],
        "1.bias": flat[2:6],
        "0.weight": flat[6:].reshape(4, 3, 1, 1),
    }
    torch.save(state, tmp_path / "w.pth")
    module = network()
    load_state_dict_file(module, tmp_path / "w.pth", **STRICT)
    with torch.no_grad():
        module[0].bias.zero_()
    assert module[1].bias.tolist() == [2, 3, 4, 5]
    assert torch.equal(module[0].weight.flatten(), flat[6:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"3.bias": None}, r"8 tensors fit; 1 of the network is missing \(3\.bias\); mend it"),
        ({"3.bias": torch.ones(3)}, r"1 has another shape \(3\.bias: 3 in the file, 2 in the network\); mend it"),
        ({"4.bias": torch.ones(3), "5.bias": torch.ones(3)}, r"2 of the file are left over \(4\.bias, 5\.bias\)"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_nothing_is_copied(tmp_path, change, message):
    state = {name: value for name, value in {**network(1).state_dict(), **change}.items() if value is not None}
    torch.save(state, tmp_path / "w.pth")
    module = network()
    with pytest.raises(InputError, match=message):
        load_state_dict_file(module, tmp_path / "w.pth", **STRICT)
    assert same(module, network().state_dict())


def test_gaps_and_other_tensors_are_accepted_where_asked_for_but_no_other_shape(tmp_path):
    state = {name: value for name, value in network(1).state_dict().items() if name != "3.bias"}
    torch.save({**state, "4.bias": torch.ones(1)}, tmp_path / "w.pth")
    options = {"may_lack": lambda name: name == "3.bias", "may_have_others": True, "way_out": "mend it"}
    module = network()
    match = load_state_dict_file(module, tmp_path / "w.pth", **options)
    assert (match.missing, match.unused) == (("3.bias",), ("4.bias",))
    assert torch.equal(module[3].bias, network()[3].bias)
    assert "1 of the network kept: 3.bias; 1 of the file not used: 4.bias [1]; a plain state_dict" in str(match)
    torch.save({**state, "3.bias": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="another shape"):
        load_state_dict_file(network(), tmp_path / "w.pth", **options)


def test_a_file_without_any_tensor_of_the_network_is_refused_whatever_is_allowed(tmp_path):
    torch.save({"other": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"0 tensors fit; 8 of the network are missing .*; 1 of the file is left over"):
        load_state_dict_file(
            network(), tmp_path / "w.pth", may_lack=lambda _: True, may_have_others=True, way_out="give another"
        )


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    state = {**network(1).state_dict(), "3.bias": torch.tensor([1.0, value])}
    torch.save(state, tmp_path / "w.pth")
    module = network()
    with pytest.raises(InputError, match=r"weight '3\.bias' holds NaN or infinity; give a sound file"):
        load_state_dict_file(module, tmp_path / "w.pth", **STRICT)
    assert same(module, network().state_dict())
    state["0.weight"] = torch.full_like(state["0.weight"], value)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"weight '0\.weight' \(and 1 more\) holds NaN or infinity"):
        load_state_dict_file(module, tmp_path / "w.pth", **STRICT)


def test_a_number_too_large_for_the_networks_precision_is_refused(tmp_path):
    torch.save({**network(1).state_dict(), "3.bias": torch.tensor([1.0, 1e300]).double()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="NaN or infinity"):
        load_state_dict_file(network(), tmp_path / "w.pth", **STRICT)


def test_a_mask_of_infinities_is_no_fault(tmp_path):
    module = nn.Linear(2, 2)
    module.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    torch.save(module.state_dict(), tmp_path / "w.pth")
    assert len(load_state_dict_file(module, tmp_path / "w.pth", **STRICT).matched) == 3


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.ones(2).to_sparse(), "sparse_coo"),
        (torch.ones(2, dtype=torch.int8), "int8"),
        (torch.ones(2, device="meta"), "float32 without data"),
    ],
)
def test_weights_that_are_no_plain_floats_are_refused(tmp_path, tensor, kind):
    torch.save({**network(1).state_dict(), "3.bias": tensor}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=rf"weight '3\.bias' is {kind}, and the network has float32"):
        load_state_dict_file(network(), tmp_path / "w.pth", **STRICT)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict_backbone": state, "epoch": 1}])
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_fused_state_dict_fills_the_converted_module(model_file, tmp_path, wrap, prefix):
    converted = onnx_to_torch(model_file)
    state = {f"{prefix}{name}": value + 1 for name, value in converted.state_dict().items()}
    torch.save(wrap(state), tmp_path / "fused.pth")
    match = load_state_dict_file(converted, tmp_path / "fused.pth")
    assert (match.missing, match.unused, match.origin.removed) == ((), (), (prefix,) if prefix else ())
    loaded = converted.state_dict()
    assert all(torch.equal(loaded[entry.target], state[entry.key]) for entry in match.matched)


def test_safetensors_fill_the_converted_module(model_file, tmp_path):
    converted = onnx_to_torch(model_file)
    state = {name: value + 1 for name, value in converted.state_dict().items()}
    save_file(state, tmp_path / "fused.safetensors")
    match = load_state_dict_file(converted, tmp_path / "fused.safetensors")
    loaded = converted.state_dict()
    assert (match.missing, match.unused) == ((), ())
    assert all(torch.equal(loaded[entry.target], state[entry.key]) for entry in match.matched)


def test_a_fused_tensor_of_another_shape_is_named_with_both(model_file, tmp_path):
    converted = onnx_to_torch(model_file)
    state = {**converted.state_dict(), "fc.0.bias": torch.ones(7)}
    torch.save(state, tmp_path / "fused.pth")
    with pytest.raises(InputError, match=r"1 has another shape \(fc\.0\.bias: 7 in the file, 6 in the network\); give"):
        load_state_dict_file(converted, tmp_path / "fused.pth")


def test_the_originals_state_dict_lacks_the_biases_that_fusing_made(model_file, exported, images, tmp_path):
    original, _ = exported("cnn", "ts", 13)
    state = {f"backbone.{name}": value for name, value in original.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "trained.ckpt")
    module = onnx_to_torch(model_file)
    assert is_unfused(module, tmp_path / "trained.ckpt")
    restore_batchnorm(module, [torch.from_numpy(images(8))])
    assert not is_unfused(module, tmp_path / "trained.ckpt")
    match = load_state_dict_file(module, tmp_path / "trained.ckpt")
    assert (match.missing, match.unused, match.origin.removed) == ((), (), ("backbone.",))
    x = torch.from_numpy(images(3))
    with torch.no_grad():
        assert torch.allclose(module.eval()(x), original.eval()(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("others", "cause"),
    [
        (
            {"onnx::Conv_12": torch.ones(2)},
            "names such as onnx::Conv_12 are those of an ONNX file: give that file as the model",
        ),
        (
            {"norm.running_mean": torch.ones(2)},
            r"1 BatchNorms of the file \(norm\) lie behind no layer of the network by name",
        ),
    ],
)
def test_what_is_left_over_tells_why_the_file_does_not_fit(tmp_path, others, cause):
    torch.save({**network(1).state_dict(), **others}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=f"left over .*{cause}"):
        load_state_dict_file(network(), tmp_path / "w.pth", **STRICT)


def test_a_negative_variance_is_refused(tmp_path):
    state = torch.nn.BatchNorm1d(2).state_dict() | {"running_var": torch.tensor([1.0, -1e-3])}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"weight 'running_var' holds a negative variance"):
        load_state_dict_file(torch.nn.BatchNorm1d(2), tmp_path / "w.pth", **STRICT)
