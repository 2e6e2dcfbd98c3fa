"""A fused export of a known network gets its BatchNorms back by name: the unfused state_dict loads, strictly."""

import copy
import io
import re
import warnings

import pytest
import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rtool.converters import build_architecture, fold_batchnorm, onnx_to_torch, restore_batchnorm, write_back
from rtool.converters.batchnorm.original_names import find_original
from rtool.converters.zoo.facts import FACTS

SIZE = (32, 32)


def trained(name: str, **options) -> nn.Module:
    """The network with statistics and affine parameters far from fresh ones, in eval mode."""
    torch.manual_seed(0)
    module = build_architecture(name, input_size=SIZE, **options)
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.8, 1.2)
            layer.weight.data.uniform_(0.8, 1.2)
            layer.bias.data.normal_(0, 0.1)
    return module.eval()


def fused_export(module: nn.Module) -> bytes:
    """A TorchScript export, which fuses BatchNorm into Conv and renames the weights."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            torch.randn(2, 3, *SIZE),
            file,
            dynamo=False,
            opset_version=17,
            input_names=["images"],
            output_names=["embedding"],
            dynamic_axes={"images": {0: "batch"}, "embedding": {0: "batch"}},
        )
    return file.getvalue()


def batches() -> list[torch.Tensor]:
    return [torch.randn(8, 3, *SIZE, generator=torch.Generator().manual_seed(1))]


class Wrapped(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        return nn.functional.normalize(self.backbone(x))


# name -> BatchNorms behind layers that fusing takes away
NETWORKS = [
    "osnet_x0_25",
    "mobilefacenet",
    "iresnet18",
    "resnet50_ibn_a",
    # larger ones of the families above
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("osnet_x1_0", "iresnet50", "resnet50")),
]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_unfused_state_dict_loads_by_name_and_gives_the_originals_outputs(name, tmp_path):
    original = trained(name)
    path = tmp_path / "fused.onnx"
    path.write_bytes(fused_export(original))
    module = onnx_to_torch(path)
    assert not set(original.state_dict()) <= set(module.state_dict())
    report = restore_batchnorm(module, batches())
    assert report.architecture == name
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:  # so that only the loaded tensors can give the outputs
            tensor.fill_(1)
        module.load_state_dict(original.state_dict(), strict=True)
        images = torch.randn(3, 3, *SIZE)
        expected = original(images)
        assert (module(images) - expected).abs().max() <= 1e-5 * expected.abs().max()
        again = onnx_to_torch(write_back(module, path))(images)
    assert (again - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_known_network_is_recognised_inside_a_wrapper():
    original = trained("osnet_x0_25")
    module = fx.symbolic_trace(copy.deepcopy(original))
    wrapped = fx.symbolic_trace(Wrapped(module).eval())
    fold_batchnorm(wrapped)
    restore_batchnorm(wrapped, batches())
    wrapped.load_state_dict({f"backbone.{key}": value for key, value in original.state_dict().items()}, strict=True)
    images = torch.randn(3, 3, *SIZE)
    with torch.no_grad():
        expected = nn.functional.normalize(original(images))
        assert (wrapped(images) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("name", sorted(FACTS))
def test_every_architecture_is_recognised_and_others_are_not(name):
    with torch.device("meta"):
        module = build_architecture(name)
    found = find_original(module)
    assert found is not None
    assert found.name == name
    module.add_module("extra", nn.Conv2d(3, 3, 1, device="meta"))
    assert find_original(module) is None


def test_recognising_leaves_the_random_generator_alone():
    module = nn.Conv2d(3, 3, 1)
    before = torch.get_rng_state()
    find_original(module)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_missing_bias_is_zero_only_for_layers_with_a_restored_batchnorm():
    layers = [nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)]
    module = fx.symbolic_trace(nn.Sequential(*layers).eval())
    restore_batchnorm(module, batches())
    module = copy.deepcopy(module)
    state = module.state_dict()
    del state["0.bias"]
    module.load_state_dict(state, strict=True)
    assert bool((module.get_submodule("0").bias == 0).all())
    for name in ("0.weight", "2.bias"):
        with pytest.raises(RuntimeError, match=re.escape(name)):
            module.load_state_dict({key: value for key, value in state.items() if key != name}, strict=True)
