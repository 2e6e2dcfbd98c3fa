"""State_dict files of every kind that training programs write; and what is not a state_dict is refused, nothing run."""

import argparse
import collections
import datetime
import os
import pickle
import sys
import types
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rtool.converters.weights.state_dict_files import read_state_dict
from rtool.errors import InputError


def tensors():
    return {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2)}


CHECKPOINTS = {
    "plain": (lambda state: state, None, ()),
    "lightning": (
        lambda state: {"epoch": 3, "state_dict": state, "pytorch-lightning_version": "2.5", "lr_schedulers": [{}]},
        "state_dict",
        ("epoch", "pytorch-lightning_version", "lr_schedulers"),
    ),
    "arcface_torch": (
        lambda state: {"epoch": 1, "state_dict_backbone": state, "state_dict_softmax_fc": {"weight": torch.ones(2)}},
        "state_dict_backbone",
        ("epoch", "state_dict_softmax_fc"),
    ),
    "fast-reid": (
        lambda state: {"model": state, "optimizer": {"state": {0: {"m": torch.ones(2)}}}, "iteration": 9},
        "model",
        ("optimizer", "iteration"),
    ),
    "torchreid": (
        lambda state: {"state_dict": state, "epoch": 60, "rank1": np.float32(0.9), "optimizer": {"param_groups": []}},
        "state_dict",
        ("epoch", "rank1", "optimizer"),
    ),
    "tutorial": (lambda state: {"model_state_dict": state, "loss": torch.ones(())}, "model_state_dict", ("loss",)),
    "deepspeed": (lambda state: {"module": state}, "module", ()),
    "average beside": (
        lambda state: {"state_dict_ema": {"conv.weight": torch.zeros(2)}, "state_dict": state},
        "state_dict",
        ("state_dict_ema",),
    ),
    "one of any name": (lambda state: {"params": state, "step": 3}, "params", ("step",)),
    "lightning with hyper-parameters": (
        lambda state: {
            "state_dict": state,
            "hparams": collections.defaultdict(list, lr=[0.1]),
            "hyper_parameters": {
                "root": Path("data"),
                "when": datetime.timedelta(1),
                "by": collections.defaultdict(list),
            },
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.ones(()), "dirpath": PurePosixPath("a")}},
            "loops": {"fit_loop": {"state_dict": {}}},
        },
        "state_dict",
        ("hparams", "hyper_parameters", "callbacks", "loops"),
    ),
    "average alone": (lambda state: {"ema": state}, "ema", ()),
    "nested twice": (
        lambda state: {"model": {"state_dict": state, "name": "osnet"}, "epoch": 1},
        "model.state_dict",
        ("epoch", "model.name"),
    ),
    "a container without tensors": (lambda state: {"model": {"name": "osnet"}, "net": state}, "net", ("model",)),
    "numpy arrays": (
        lambda state: {"model": state, "cmc": np.ones(3), "best": np.float64(1)},
        "model",
        ("cmc", "best"),
    ),
    "arguments": (lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)}, "model", ("args",)),
    "entries that are not tensors": (lambda state: {**state, "version": 2, 3: torch.ones(1)}, None, ("version", "3")),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints_of_every_trainer_are_read_and_the_rest_reported(tmp_path, kind, zipped):
    make, container, ignored = CHECKPOINTS[kind]
    torch.save(make(tensors()), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    state = read_state_dict(tmp_path / "w.pth")
    assert state.tensors.keys() == tensors().keys()
    assert all(torch.equal(state.tensors[name], value) for name, value in tensors().items())
    assert (state.container, state.ignored) == (container, ignored)


def test_several_state_dicts_are_refused_with_the_choice_and_one_is_chosen_by_its_key(tmp_path):
    ours, theirs = tensors(), {name: value + 1 for name, value in tensors().items()}
    path = tmp_path / "w.pth"
    for first, second in (("student", "teacher"), ("model", "net"), ("a.b", "c")):
        torch.save({first: ours, second: theirs, "epoch": 1}, path)
        with pytest.raises(InputError, match=rf"holds several state_dicts .*w\.pth:{first} or .*w\.pth:{second}"):
            read_state_dict(path)
        chosen = read_state_dict(f"{path}:{second}")
        assert torch.equal(chosen.tensors["conv.bias"], theirs["conv.bias"])
        assert (chosen.path, chosen.container, chosen.ignored) == (path, second, (first, "epoch"))
        assert torch.equal(read_state_dict(f"{path}:{first}").tensors["conv.bias"], ours["conv.bias"])
        with pytest.raises(InputError, match=r"has no state_dict under 'x', and no tensor .* it has .*epoch"):
            read_state_dict(f"{path}:x")
    torch.save({"epoch": 1, "nets": {"student": ours, "teacher": theirs}}, path)
    assert torch.equal(read_state_dict(f"{path}:nets.teacher").tensors["conv.bias"], theirs["conv.bias"])


def test_a_prefix_chooses_one_of_two_networks_in_a_flat_file(tmp_path):
    state = tensors()
    flat = {f"{who}.{name}": value + shift for shift, who in enumerate(("a", "b")) for name, value in state.items()}
    torch.save(flat, tmp_path / "w.pth")
    chosen = read_state_dict(f"{tmp_path}/w.pth:b")
    assert list(chosen.tensors) == ["b.conv.weight", "b.conv.bias"]
    assert chosen.ignored == ("a.conv.weight", "a.conv.bias")


def test_the_same_weights_under_two_usual_keys_are_no_choice(tmp_path):
    torch.save({"model": tensors(), "net": tensors()}, tmp_path / "w.pth")
    assert read_state_dict(tmp_path / "w.pth").container == "model"


def test_hyper_parameters_of_a_class_of_their_own_are_replaced(tmp_path):
    """Lightning and yacs keep them in mappings that need not be installed; their names alone are in the file."""
    module = types.ModuleType("yacs.config")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config", "__qualname__": "CfgNode"})
    sys.modules["yacs"], sys.modules["yacs.config"] = types.ModuleType("yacs"), module
    try:
        torch.save(
            {"model": tensors(), "cfg": module.CfgNode(lr=0.1, nested=module.CfgNode(a=[1]))}, tmp_path / "w.pth"
        )
    finally:
        del sys.modules["yacs"], sys.modules["yacs.config"]
    state = read_state_dict(tmp_path / "w.pth")
    assert (state.container, state.ignored) == ("model", ("cfg",))
    assert "yacs" not in sys.modules


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_safetensors_are_recognised_by_suffix_and_by_content(tmp_path, name):
    save_file(tensors(), tmp_path / name)
    state = read_state_dict(str(tmp_path / name))
    assert torch.equal(state.tensors["conv.weight"], tensors()["conv.weight"])
    assert (state.container, state.ignored) == (None, ())


def test_the_digest_is_that_of_the_bytes_read(tmp_path):
    import hashlib

    torch.save(tensors(), tmp_path / "w.pth")
    expected = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    state = read_state_dict(tmp_path / "w.pth")
    torch.save({}, tmp_path / "w.pth")
    assert state.sha256 == expected


def test_parameters_and_tensors_that_share_storage_are_read(tmp_path):
    flat = torch.arange(10.0)
    torch.save({"a": flat[:4], "b": flat[2:6].reshape(2, 2), "c": nn.Parameter(torch.ones(2))}, tmp_path / "w.pth")
    state = read_state_dict(tmp_path / "w.pth").tensors
    assert torch.equal(state["a"], flat[:4])
    assert torch.equal(state["b"], flat[2:6].reshape(2, 2))
    assert state["c"].tolist() == [1, 1]


class Hostile:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
@pytest.mark.parametrize("place", [lambda bad: {"w": bad}, lambda bad: {"state_dict": tensors(), "args": bad}])
def test_pickled_code_is_refused_and_not_run(tmp_path, write, place):
    write(place(Hostile(tmp_path / "owned")), tmp_path / "m.pth")
    with pytest.raises(
        InputError, match=r"m\.pth: expected .*, got Python objects \((posix\.mkdir|torch\.storage).*save model\.state"
    ):
        read_state_dict(tmp_path / "m.pth")
    assert not (tmp_path / "owned").exists()


class Numpy:
    """Names NumPy's function for scalars with arguments of its own."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return np.float64(1).__reduce__()[0], self.arguments


def test_what_numpy_would_build_is_never_built(tmp_path):
    built = {"scalar": Numpy(np.dtype("O"), {"any": "thing"}), "huge": Numpy("V999999999999")}
    torch.save({**tensors(), **built}, tmp_path / "w.pth")
    state = read_state_dict(tmp_path / "w.pth")
    assert state.ignored == ("scalar", "huge")
    torch.save({"conv.weight": np.ones(3)}, tmp_path / "arrays.pth")
    with pytest.raises(InputError, match=r"without named tensors \(conv\.weight\)"):
        read_state_dict(tmp_path / "arrays.pth")


def test_a_whole_module_is_refused_with_the_way_out(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "m.pth")
    with pytest.raises(InputError, match=r"torch\.nn\.modules\.linear\.Linear.*save model\.state_dict\(\) alone"):
        read_state_dict(tmp_path / "m.pth")


def test_a_torchscript_archive_is_refused_by_name(tmp_path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "m.pt")
    with pytest.raises(InputError, match="got a TorchScript archive"):
        read_state_dict(tmp_path / "m.pt")


@pytest.mark.parametrize("content", [{}, {1: torch.ones(2)}, {"state_dict": {1: torch.ones(2)}}, {"epoch": 3}])
def test_a_file_without_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"got one without named tensors .*save model\.state_dict"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize(("content", "kind"), [([torch.ones(2)], "list"), (torch.ones(2), "a single tensor")])
def test_a_file_of_something_else_is_refused(tmp_path, content, kind):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=f"got {kind}; save model"):
        read_state_dict(tmp_path / "w.pth")


def test_a_checkpoint_that_holds_itself_ends(tmp_path):
    content = {"epoch": 1}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match="without named tensors"):
        read_state_dict(tmp_path / "w.pth")


def test_other_files_are_recognised_and_named(tmp_path):
    for name, content, message in (
        ("empty.pth", b"", "got an empty file; fetch or save it again"),
        ("lfs.pth", b"version https://git-lfs.github.com/spec/v1", "git-lfs pointer; run `git lfs pull`"),
        ("page.safetensors", b"\n<!DOCTYPE html><html>", "got a web page; download the file itself"),
        ("model.onnx", b"\x08\x07", "got an ONNX model; give it as the model"),
        ("text.pth", b"hello", "cannot read it"),
        ("text.safetensors", b"hello", "cannot read it"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_state_dict(tmp_path / name)
    with pytest.raises(InputError, match=r"missing\.pth: no such file; check the path"):
        read_state_dict(tmp_path / "missing.pth")


def test_a_folder_is_refused_and_a_file_in_it_named(tmp_path):
    with pytest.raises(InputError, match="got a folder; give the file in it"):
        read_state_dict(tmp_path)
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(InputError, match=r"got a folder; give .*weights\.safetensors"):
        read_state_dict(tmp_path)


def test_a_file_without_permission_is_refused(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    torch.save(tensors(), tmp_path / "w.pth")
    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read every file
    with pytest.raises(InputError, match="check its permissions"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_cut_short_anywhere_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / name
    save_file(tensors(), path) if path.suffix == ".safetensors" else torch.save(tensors(), path)
    sound = path.read_bytes()
    for length in range(1, len(sound), 37):
        path.write_bytes(sound[:length])
        with pytest.raises(InputError, match="cannot read it") as refusal:
            read_state_dict(path)
        assert "\n" not in str(refusal.value)
        assert "weights_only" not in str(refusal.value)
