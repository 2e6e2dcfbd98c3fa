"""Weights by name: wrappers' prefixes, gaps, and files that are no state_dict."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rtool.errors import InputError
from rtool.finetune.network.weights import load_weights


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_weights_load_by_name_through_wrappers_and_without_classifiers(tmp_path):
    source, target = network(), network()
    with torch.no_grad():
        source[0].weight.add_(1)
    tensors = {f"module.{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": {**tensors, "module.classifier.weight": torch.ones(2)}}, tmp_path / "w.pth")
    assert load_weights(target, tmp_path / "w.pth").left_out == ("classifier.weight",)
    assert torch.equal(target[0].weight, source[0].weight)


def test_weights_that_do_not_fit_are_refused_unless_a_gap_is_allowed(tmp_path):
    tensors = {name: value for name, value in network().state_dict().items() if not name.startswith("3.")}
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="2 tensors missing"):
        load_weights(network(), tmp_path / "w.safetensors")
    loaded = load_weights(network(), tmp_path / "w.safetensors", ["3"])
    assert loaded.kept == ("3.weight", "3.bias")
    assert "7 tensors loaded; 2 kept as they were: 3.weight, 3.bias" in str(loaded)


def test_pickled_code_in_weights_is_not_run(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (print, ("owned",))

    torch.save({"w": Malicious()}, tmp_path / "m.pth")
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(network(), tmp_path / "m.pth")


@pytest.mark.parametrize("own", ["backbone", "model", "module"])
@pytest.mark.parametrize("wrapper", ["", "module.", "model."])
def test_a_network_whose_own_names_begin_like_a_wrapper_takes_its_own_weights(tmp_path, own, wrapper):
    source, target = (nn.ModuleDict({own: network()}) for _ in range(2))
    with torch.no_grad():
        source[own][0].weight.add_(1)
    save_file({f"{wrapper}{name}": value for name, value in source.state_dict().items()}, tmp_path / "w.safetensors")
    loaded = load_weights(target, tmp_path / "w.safetensors")
    assert loaded.loaded == tuple(target.state_dict())
    assert torch.equal(target[own][0].weight, source[own][0].weight)


def test_two_tensors_for_one_place_are_refused_unless_one_has_its_very_name(tmp_path):
    state = network().state_dict()
    others = {"model.3.bias": torch.full((2,), 7.0), "module.3.bias": torch.full((2,), 8.0)}
    torch.save({**{name: value for name, value in state.items() if name != "3.bias"}, **others}, tmp_path / "two.pth")
    with pytest.raises(InputError, match=r"'model\.3\.bias' and 'module\.3\.bias' are both 3\.bias of the network"):
        load_weights(network(), tmp_path / "two.pth")
    torch.save({**others, **state}, tmp_path / "own.pth")
    target = network()
    load_weights(target, tmp_path / "own.pth")
    assert torch.equal(target[3].bias, state["3.bias"])


def test_a_checkpoint_of_arcface_torch_is_recognised(tmp_path):
    state = network().state_dict()
    content = {"epoch": 3, "state_dict_backbone": state, "state_dict_softmax_fc": {"weight": torch.ones(2)}}
    torch.save(content, tmp_path / "w.pt")
    assert load_weights(network(), tmp_path / "w.pt").left_out == ()


def test_a_file_without_any_tensor_of_the_network_is_refused_whatever_may_be_lacking(tmp_path):
    torch.save({"other": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="has no tensor of the network; the file has names like"):
        load_weights(network(), tmp_path / "w.pth", ["*"])


@pytest.mark.parametrize("content", [{1: torch.ones(2)}, {"state_dict": {1: torch.ones(2)}}, [torch.ones(2)], {}])
def test_tensors_without_names_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match="no named tensors"):
        load_weights(network(), tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>", b"PK"])
def test_a_file_that_is_no_state_dict_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read as one: \w"):
        load_weights(network(), path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    torch.save({**network().state_dict(), "3.bias": torch.tensor([1.0, torch.inf])}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"NaN or infinity, such as 3\.bias"):
        load_weights(network(), tmp_path / "w.pth")
