"""The one prefix that a training program put before the names is found from the module's names, and removed."""

import pytest
import torch
from torch import nn

from rtool.converters.weights.state_dict_files import read_state_dict
from rtool.converters.weights.state_dict_names import names_of_module
from rtool.errors import InputError

OWN = tuple(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).state_dict())


def named(tmp_path, keys, own=OWN, required=None):
    torch.save({key: torch.full((1,), float(number)) for number, key in enumerate(keys)}, tmp_path / "w.pth")
    return names_of_module(read_state_dict(tmp_path / "w.pth"), own, own if required is None else required)


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "net.", "backbone.", "encoder.", "module.model.", "student.", "model.model."]
)
def test_a_prefix_of_all_names_is_removed(tmp_path, prefix):
    found = named(tmp_path, [f"{prefix}{name}" for name in OWN])
    assert tuple(found.tensors) == OWN
    assert found.removed == (prefix,)
    assert found.keys["0.weight"] == f"{prefix}0.weight"


def test_names_that_fit_are_left_as_they_are(tmp_path):
    found = named(tmp_path, OWN)
    assert (tuple(found.tensors), found.removed) == (OWN, ())


def test_a_prefix_of_the_names_that_fit_is_removed_and_other_tensors_keep_theirs(tmp_path):
    found = named(tmp_path, [*(f"model.{name}" for name in OWN), "loss.weight", "model.classifier.weight"])
    assert [name for name in found.tensors if name not in OWN] == ["loss.weight", "classifier.weight"]
    assert found.keys["classifier.weight"] == "model.classifier.weight"


@pytest.mark.parametrize(
    ("key", "removed"),
    [
        ("_orig_mod.{}", ("_orig_mod.",)),
        ("module._orig_mod.{}", ("_orig_mod.", "module.")),
        ("model._orig_mod.{}", ("_orig_mod.", "model.")),
        ("_orig_mod.module.{}", ("_orig_mod.", "module.")),
        ("_fsdp_wrapped_module.{}", ("_fsdp_wrapped_module.",)),
    ],
)
def test_what_torch_puts_into_names_is_removed(tmp_path, key, removed):
    found = named(tmp_path, [key.format(name) for name in OWN])
    assert (tuple(found.tensors), found.removed) == (OWN, removed)


def test_a_part_that_was_compiled_alone_is_found(tmp_path):
    found = named(tmp_path, [name.replace("1.", "1._orig_mod.", 1) if name[0] == "1" else name for name in OWN])
    assert (tuple(found.tensors), found.removed) == (OWN, ("_orig_mod.",))


def test_a_module_whose_own_names_have_the_word_keeps_it(tmp_path):
    own = [f"_orig_mod.model.{name}" for name in OWN]
    found = named(tmp_path, own, own)
    assert (list(found.tensors), found.removed) == (own, ())
    found = named(tmp_path, [f"model.{name}" for name in own], own)
    assert (list(found.tensors), found.removed) == (own, ("model.",))


def test_parts_of_another_network_are_never_moved_to_other_places(tmp_path):
    """`layer1.0.weight` of another network is no `0.weight` of this one."""
    found = named(tmp_path, ["layer1.0.weight", "layer1.0.bias", "layer1.1.weight", "layer1.1.bias"])
    assert found.removed == ()
    found = named(tmp_path, ["layer1.0.weight"], required=())
    assert found.removed == ()


def test_two_networks_that_fit_alike_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"under 'student\.' and 'teacher\.' alike; say which: .*w\.pth:student or .*w\.pth:teacher"
    ):
        named(tmp_path, [f"{prefix}.{name}" for prefix in ("student", "teacher") for name in OWN])


def test_the_network_goes_before_a_copy_with_a_prefix(tmp_path):
    found = named(tmp_path, [*(f"ema.{name}" for name in OWN), *OWN])
    assert found.removed == ()
    assert found.keys["0.weight"] == "0.weight"


def test_two_tensors_for_one_place_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"'module\.3\.bias' and '3\.bias' are both 3\.bias of the network"):
        named(tmp_path, [*(f"module.{name}" for name in OWN), "3.bias"])
    with pytest.raises(InputError, match=r"'_orig_mod\.3\.bias' and '3\.bias' are both 3\.bias of the network"):
        named(tmp_path, ["_orig_mod.3.bias", *OWN])


def test_one_prefix_is_removed_not_several(tmp_path):
    found = named(tmp_path, [*(f"module.{name}" for name in OWN if name != "3.bias"), "model.3.bias"])
    assert "3.bias" not in found.tensors
    assert found.removed == ("module.",)
