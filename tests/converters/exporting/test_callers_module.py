"""Nothing that reads a module changes it: mode of every layer, device, weights, gradients wanted, record, graph."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import fx, nn

import rtool
from rtool.converters import TorchRunner, export, onnx_to_torch, run_in_batches, save_bundle, torch_to_onnx, write_back
from rtool.converters.batchnorm.kept_batchnorms import left_in_source
from rtool.converters.records.preprocessing import Preprocessing
from rtool.converters.records.record import record_of
from rtool.converters.runtime.batches.batch_by_shapes import fixed_batch_by_shapes
from rtool.converters.runtime.eval_mode import evaluation_twin, in_eval_mode

PREPROCESSING = Preprocessing(16, 8, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def state_of(module: nn.Module) -> dict[str, object]:
    """Everything about a module that its owner can see."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    record = record_of(module)
    return {
        "modes": [(name, layer.training) for name, layer in module.named_modules()],
        "objects": [(name, id(tensor), tensor.data_ptr(), tensor.device) for name, tensor in tensors.items()],
        "weights": [tensor.detach().cpu().numpy().tobytes() for tensor in tensors.values()],
        "wanted": [(tensor.requires_grad, tensor.grad is None) for tensor in tensors.values()],
        "hooks": [len(layer._forward_hooks) for layer in module.modules()],
        "code": module.code if isinstance(module, fx.GraphModule) else None,
        "record": copy.deepcopy(vars(record)) if record is not None else None,
    }


@pytest.fixture
def source(exported) -> onnx.ModelProto:
    return exported("cnn", "ts", 17, fused=False)[1]


def in_training(module: nn.Module) -> nn.Module:
    """In train mode, except for one BatchNorm, as a frozen one is."""
    module.train()
    next(layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)).eval()
    return module


@pytest.fixture(params=["converted", "plain"])
def module(request: pytest.FixtureRequest, exported, source: onnx.ModelProto) -> nn.Module:
    return in_training(
        onnx_to_torch(source) if request.param == "converted" else copy.deepcopy(exported("cnn", "ts", 17)[0])
    )


def arguments(module: nn.Module, source: onnx.ModelProto) -> dict[str, object]:
    return {
        "preprocessing": PREPROCESSING,
        **({"source": source} if record_of(module) is not None else {}),
    }


USES: dict[str, Callable[[nn.Module, onnx.ModelProto, Path], object]] = {
    "export": lambda module, source, folder: export(module, folder / "m.onnx", **arguments(module, source)),
    "export --fold-padded": lambda module, source, folder: export(
        module, folder / "m.onnx", fold_padded=True, simplifier="none", **arguments(module, source)
    ),
    "export --format pt2": lambda module, source, folder: export(
        module, folder / "m.pt2", format="pt2", **arguments(module, source)
    ),
    "export --format torchscript": lambda module, source, folder: export(
        module, folder / "m.pt", format="torchscript", **arguments(module, source)
    ),
    "torch_to_onnx": lambda module, source, folder: torch_to_onnx(module, torch.zeros(2, 3, 16, 8)),
    "TorchRunner": lambda module, source, folder: TorchRunner(module).run(np.zeros((2, 3, 16, 8), np.float32)),
    "run_in_batches": lambda module, source, folder: run_in_batches(
        TorchRunner(module), np.zeros((5, 3, 16, 8), np.float32), 2
    ),
    "evaluate": lambda module, source, folder: rtool.evaluate(
        TorchRunner(module, inputs=onnx_inputs(source)),
        "synthetic-people:identities=4,images=8,seed=2,size=16x8",
        preprocessing="imagenet",
    ),
}
CONVERTED_ONLY: dict[str, Callable[[nn.Module, onnx.ModelProto, Path], object]] = {
    "write_back": lambda module, source, folder: write_back(module, source),
    "save_bundle": lambda module, source, folder: save_bundle(module, folder / "m.rtool", source=source),
    "left_in_source": lambda module, source, folder: left_in_source(module),
    "fixed_batch_by_shapes": lambda module, source, folder: fixed_batch_by_shapes(module, record_of(module).inputs),
}


def onnx_inputs(source: onnx.ModelProto):
    return record_of(onnx_to_torch(source)).inputs


@pytest.mark.parametrize("use", [*USES, *CONVERTED_ONLY])
def test_the_callers_module_stays_as_it_is(use: str, module: nn.Module, source: onnx.ModelProto, tmp_path: Path):
    if use in CONVERTED_ONLY and record_of(module) is None:
        module = in_training(onnx_to_torch(source))
    before = state_of(module)
    (USES | CONVERTED_ONLY)[use](module, source, tmp_path)
    after = state_of(module)
    assert {name for name in before if before[name] != after[name]} == set()


def test_a_caller_that_gives_a_proto_keeps_it(source: onnx.ModelProto, tmp_path: Path):
    before = source.SerializeToString(deterministic=True)
    trained = onnx_to_torch(source)
    with torch.no_grad():
        next(trained.parameters()).add_(1)
    export(trained, tmp_path / "m.onnx", source=source, preprocessing=PREPROCESSING)
    save_bundle(trained, tmp_path / "m.rtool", source=source)
    assert source.SerializeToString(deterministic=True) == before


def test_a_twin_shares_tensors_and_follows_training(module: nn.Module):
    twin = evaluation_twin(module, "cpu")
    assert twin is not module
    assert not any(layer.training for layer in twin.modules())
    assert [id(tensor) for tensor in twin.parameters()] == [id(tensor) for tensor in module.parameters()]
    module.eval()
    assert evaluation_twin(module, "cpu") is module
    assert evaluation_twin(twin, "cpu") is twin


def test_a_twin_on_another_device_leaves_the_module_where_it_is(module: nn.Module):
    before = state_of(module)
    twin = evaluation_twin(module.eval(), "meta")
    assert {tensor.device.type for tensor in [*twin.parameters(), *twin.buffers()]} == {"meta"}
    in_training(module)
    assert state_of(module) == before


def test_modes_are_put_back_after_an_error(module: nn.Module):
    before = state_of(module)["modes"]

    def fail() -> None:
        with in_eval_mode(module):
            assert not any(layer.training for layer in module.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert state_of(module)["modes"] == before
