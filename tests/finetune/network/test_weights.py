"""`model.weights` by name: wrappers' prefixes, gaps, classifiers; files themselves are tested with their reader."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rtool.converters.weights.state_dict_loading import load_state_dict_file
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
    match = load_weights(target, tmp_path / "w.pth")
    assert (match.unused, match.origin.removed) == (("module.classifier.weight",), ("module.",))
    assert torch.equal(target[0].weight, source[0].weight)


def test_weights_that_do_not_fit_are_refused_unless_a_gap_is_allowed(tmp_path):
    tensors = {name: value for name, value in network().state_dict().items() if not name.startswith("3.")}
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"2 of the network are missing \(3\.weight, 3\.bias\).*weights_may_lack"):
        load_weights(network(), tmp_path / "w.safetensors")
    match = load_weights(network(), tmp_path / "w.safetensors", ["3"])
    assert match.missing == ("3.weight", "3.bias")
    assert "7 tensors loaded; 2 of the network kept: 3.weight, 3.bias" in str(match)


@pytest.mark.parametrize("own", ["backbone", "model", "module"])
@pytest.mark.parametrize("wrapper", ["", "module.", "model."])
def test_a_network_whose_own_names_begin_like_a_wrapper_loads_its_own_weights(tmp_path, own, wrapper):
    source, target = (nn.ModuleDict({own: network()}) for _ in range(2))
    with torch.no_grad():
        source[own][0].weight.add_(1)
    save_file({f"{wrapper}{name}": value for name, value in source.state_dict().items()}, tmp_path / "w.safetensors")
    match = load_weights(target, tmp_path / "w.safetensors")
    assert [entry.target for entry in match.matched] == list(target.state_dict())
    assert torch.equal(target[own][0].weight, source[own][0].weight)


def test_tensors_under_other_prefixes_are_neither_mixed_in_nor_mistaken_for_the_networks(tmp_path):
    state = network().state_dict()
    others = {"model.3.bias": torch.full((2,), 7.0), "module.3.bias": torch.full((2,), 8.0)}
    torch.save({**{name: value for name, value in state.items() if name != "3.bias"}, **others}, tmp_path / "two.pth")
    with pytest.raises(InputError, match=r"1 of the network is missing \(3\.bias\)"):
        load_weights(network(), tmp_path / "two.pth")
    torch.save({**others, **state}, tmp_path / "own.pth")
    target = network()
    assert load_weights(target, tmp_path / "own.pth").unused == tuple(others)
    assert torch.equal(target[3].bias, state["3.bias"])


def test_a_checkpoint_of_arcface_torch_is_recognised(tmp_path):
    state = network().state_dict()
    content = {"epoch": 3, "state_dict_backbone": state, "state_dict_softmax_fc": {"weight": torch.ones(2)}}
    torch.save(content, tmp_path / "w.pt")
    match = load_weights(network(), tmp_path / "w.pt")
    assert (match.unused, match.origin.container) == ((), "state_dict_backbone")


def test_a_file_without_any_tensor_of_the_network_is_refused_whatever_may_be_lacking(tmp_path):
    torch.save({"other": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="does not fit the network: 0 tensors fit"):
        load_weights(network(), tmp_path / "w.pth", ["*"])


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK", None])
def test_both_ways_to_give_weights_refuse_a_file_in_the_same_words(tmp_path, content):
    path = tmp_path / "w.pth"
    if content is None:
        torch.save(nn.Linear(2, 2), path)
    else:
        path.write_bytes(content)
    messages = []
    for load in (load_weights, load_state_dict_file):
        with pytest.raises(InputError) as refusal:
            load(network(), path)
        messages.append(str(refusal.value))
    assert messages[0] == messages[1]
    assert "expected a state_dict of tensors" in messages[0]


def test_weights_that_are_not_finite_are_refused(tmp_path):
    torch.save({**network().state_dict(), "3.bias": torch.tensor([1.0, torch.inf])}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"'3\.bias' holds NaN or infinity"):
        load_weights(network(), tmp_path / "w.pth")
