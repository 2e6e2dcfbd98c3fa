"""A restored BatchNorm changes nothing in eval mode, is a real BatchNorm in training, and folds away again."""

import copy
import functools
import hashlib
import math
import re

import numpy as np
import pytest
import torch
from torch import fx, nn

from rtool.converters import fold_batchnorm, insert_batchnorms, restore_batchnorm
from rtool.converters.records.node_facts import NodeFacts, set_facts
from rtool.converters.records.record import (
    ConversionRecord,
    ParameterSource,
    RestoredBatchNorm,
    TensorSpec,
    attach_record,
)
from rtool.converters.zoo.registry import build_architecture
from rtool.errors import InputError


def fused(name: str) -> fx.GraphModule:
    """The network as an exporter leaves it: trained statistics, BatchNorm folded."""
    return copy.deepcopy(fused_once(name))


@functools.cache
def fused_once(name: str) -> fx.GraphModule:
    torch.manual_seed(0)
    module = build_architecture(name, input_size=(32, 32))
    with torch.no_grad():
        for _ in range(2):
            module(torch.randn(8, 3, 32, 32))
    module = fx.symbolic_trace(module.eval())
    fold_batchnorm(module)
    return module


def batches(count: int = 3, size: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, 32, 32, generator=generator) for _ in range(count)]


@pytest.mark.parametrize(
    "name", ["osnet_x0_25", "mobilefacenet", "iresnet18", pytest.param("resnet50", marks=pytest.mark.slow)]
)
def test_eval_outputs_stay_and_folding_brings_the_weights_back(name):
    module = fused(name)
    original = copy.deepcopy(module)
    images = torch.randn(2, 3, 32, 32)
    report = restore_batchnorm(module, batches())
    assert len(report.restored) > 15
    with torch.no_grad():
        expected, got = original(images), module(images)
        assert torch.equal(got, expected)
        fold_batchnorm(module, only={entry.module for entry in report.restored})
        assert (module(images) - expected).abs().max() <= 1e-6 * expected.abs().max()
    weights = [(a, b) for a, b in zip(original.parameters(), module.parameters(), strict=True) if a.ndim > 1]
    assert all(torch.allclose(a, b, rtol=1.2e-7, atol=0) for a, b in weights)  # one unit in the last place
    changed = sum(int((a != b).sum()) for a, b in weights)
    assert changed <= 1e-3 * sum(a.numel() for a, _ in weights)


def test_statistics_are_those_of_all_calibration_activations():
    module = fused("osnet_x0_25")
    seen = []
    handle = module.get_submodule("conv1.conv").register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        for batch in batches():
            module(batch)
    handle.remove()
    activations = torch.cat(seen).double().numpy()
    restore_batchnorm(module, batches())
    batchnorm = module.get_submodule("conv1.bn")
    mean, variance = activations.mean(axis=(0, 2, 3)), activations.var(axis=(0, 2, 3))
    assert np.allclose(batchnorm.running_mean, mean, rtol=1e-6, atol=1e-7)
    assert np.allclose(batchnorm.running_var, variance, rtol=1e-3)
    assert np.allclose(batchnorm.weight.detach(), np.sqrt(variance + 1e-5), rtol=1e-3)
    assert np.allclose(batchnorm.bias.detach(), mean, rtol=1e-6, atol=1e-7)


def test_training_uses_batch_statistics_and_reports_the_drift():
    module = fused("osnet_x0_25")
    report = restore_batchnorm(module, batches())
    assert 0 < report.train_drift < 10
    before = module.get_submodule("conv1.bn").running_mean.clone()
    module.train()(batches()[0]).sum().backward()
    assert not torch.equal(module.get_submodule("conv1.bn").running_mean, before)
    assert module.get_submodule("conv1.bn").weight.grad.abs().sum() > 0


def test_the_network_is_left_in_the_mode_it_came_in():
    module = fused("osnet_x0_25").train()
    restore_batchnorm(module, batches(1, 8))
    assert all(child.training for child in module.modules())
    assert int(module.get_submodule("conv1.bn").num_batches_tracked) == 0


class Mixed(nn.Module):
    """One layer of every kind that must not get a BatchNorm, and one that must."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.plain = nn.Conv2d(8, 8, 1, bias=False)
        self.normal = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Conv2d(8, 8, 1)
        self.twice = nn.Conv2d(8, 8, 1)
        self.flatten = nn.Flatten()
        self.gate_linear = nn.Linear(8, 8)
        self.sequence = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.norm(self.normal(self.plain(self.stem(x))))
        x = self.twice(self.twice(x * torch.sigmoid(self.gate(self.pool(x)))))
        x = self.sequence(x.flatten(2).transpose(1, 2)).mean(1)
        return self.head(x * torch.sigmoid(self.gate_linear(x)))


def test_only_layers_that_can_have_had_a_batchnorm_get_one():
    module = fx.symbolic_trace(Mixed().eval())
    report = restore_batchnorm(module, batches())
    assert [entry.after for entry in report.restored] == ["stem", "head"]
    reasons = {entry.layer: entry.reason for entry in report.skipped}
    expected = {
        "plain": "no bias",
        "normal": "BatchNorm follows",
        "gate": "1 x 1",
        "twice": "called 2 times",
        "sequence": "sequences",
        "gate_linear": "mixed",
    }
    assert set(reasons) == set(expected)
    assert all(part in reasons[layer] for layer, part in expected.items()), reasons


def test_original_names_in_the_file_decide_which_layers_are_restored():
    module = fx.symbolic_trace(Mixed().eval())
    record = ConversionRecord("m.onnx", None, 17, "", (), ())
    attach_record(module, record)
    record.parameters["stem.weight"] = ParameterSource("onnx::Conv_10")
    record.parameters["stem.bias"] = ParameterSource("onnx::Conv_11")
    record.parameters["head.weight"] = ParameterSource("head.weight")
    record.parameters["head.bias"] = ParameterSource("head.bias")
    report = restore_batchnorm(module, batches())
    assert [entry.after for entry in report.restored] == ["stem"]
    assert record.restored == report.restored


def test_dead_channels_are_counted_and_stay_harmless():
    module = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval())
    with torch.no_grad():
        module.get_submodule("0").weight[1].zero_()
    report = restore_batchnorm(module, batches())
    assert report.dead_channels == 1
    images = batches()[0]
    expected = torch.relu(nn.functional.conv2d(images, *module.get_submodule("0").parameters()))
    assert torch.allclose(module(images), expected, atol=1e-6)
    assert module.train()(images).isfinite().all()


def test_the_exporters_scope_names_the_batchnorm():
    module = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval())
    set_facts(next(node for node in module.graph.nodes if node.target == "0"), NodeFacts(scope="stem.norm"))
    (entry,) = restore_batchnorm(module, batches(1, 8)).restored
    assert entry.module == "stem.norm"


def test_batchnorms_are_put_back_from_their_description():
    module = fused("osnet_x0_25")
    bare = copy.deepcopy(module)
    report = restore_batchnorm(module, batches())
    insert_batchnorms(bare, report.restored)
    bare.load_state_dict(module.state_dict())
    images = batches()[0]
    with torch.no_grad():
        assert torch.equal(bare.eval()(images), module.eval()(images))
    with pytest.raises(InputError, match="no single layer"):
        insert_batchnorms(bare, [RestoredBatchNorm("x.bn", "x.conv", 4, 1e-5)])


def test_interrupted_calibration_continues_where_it_stopped(tmp_path):
    state = tmp_path / "calibration.safetensors"
    whole, resumed = fused("mobilefacenet"), fused("mobilefacenet")
    runs = []
    next(layer for layer in resumed.modules() if isinstance(layer, torch.nn.Conv2d)).register_forward_hook(
        lambda *_: runs.append(1)
    )

    def interrupted():
        yield from batches(5)[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_batchnorm(resumed, interrupted(), state=state)
    assert state.exists()
    assert len(runs) == 3
    report = restore_batchnorm(resumed, batches(5), state=state)
    assert report.images == 20
    assert len(runs) == 3 + 2 + 2  # batches 4 and 5, then two for the drift
    assert not state.exists()
    restore_batchnorm(whole, batches(5))
    for (path, a), (_, b) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(a, b), path


BAD = {
    "no images": ([], "no images"),
    "one image": ([torch.randn(1, 3, 32, 32)], "1 image is too few"),
    "seven images": ([torch.randn(7, 3, 32, 32)], "7 images are too few .* at least 8"),
    "wrong size": ([torch.randn(2, 3, 48, 32)], r"\['N', 3, 32, 32\].*\[2, 3, 48, 32\]"),
    "not a number": ([torch.full((8, 3, 32, 32), torch.nan)], "layer 'conv1.conv'.*NaN"),
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_calibration_images_are_refused(case):
    images, message = BAD[case]
    module = fused("osnet_x0_25")
    spec = TensorSpec("images", "float32", ("N", 3, 32, 32))
    attach_record(module, ConversionRecord("m.onnx", None, 17, "", (spec,), ()))
    before = len(list(module.modules()))
    with pytest.raises(InputError, match=message):
        restore_batchnorm(module, images)
    assert len(list(module.modules())) == before


def interrupted_state(tmp_path):
    """The state left by a calibration of an OSNet that was interrupted after two batches."""
    state = tmp_path / "state"

    def stopped():
        yield from batches(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_batchnorm(fused("osnet_x0_25"), stopped(), state=state)
    return state


def test_state_of_another_model_or_other_images_is_refused(tmp_path):
    state = tmp_path / "state"
    state.write_bytes(b"no state")
    with pytest.raises(InputError, match=r"not a calibration state.*remove it"):
        restore_batchnorm(fused("osnet_x0_25"), batches(), state=state)
    state.unlink()
    state = interrupted_state(tmp_path)
    other = fused("osnet_x0_25")
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    with pytest.raises(InputError, match=r"another model.*remove it"):
        restore_batchnorm(other, batches(), state=state)
    with pytest.raises(InputError, match=r"other images.*remove it"):
        restore_batchnorm(fused("osnet_x0_25"), [batch + 1 for batch in batches()], state=state)
    assert state.exists()  # it is still usable with the right model and images
    assert restore_batchnorm(fused("osnet_x0_25"), batches(), state=state).images == 12


def test_unusable_images_leave_no_state_behind(tmp_path):
    with pytest.raises(InputError, match="cannot take"):
        restore_batchnorm(fused("osnet_x0_25"), [*batches(5), torch.randn(4, 2, 32, 32)], state=tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_progress_is_reported_after_every_batch():
    seen = []
    restore_batchnorm(fused("osnet_x0_25"), batches(), progress=seen.append)
    assert seen == [4, 8, 12]


def test_the_set_of_images_has_one_digest_in_any_order():
    images = torch.cat(batches())
    first, turned, fewer = (
        restore_batchnorm(fused("osnet_x0_25"), given.split(4)).images_sha256
        for given in (images, images.flip(0), images[:8])
    )
    assert first == turned != fewer
    rows = sorted(hashlib.sha256(b"<f4(3, 32, 32)" + row.numpy().tobytes()).digest() for row in images)
    assert first == hashlib.sha256(b"".join(rows)).hexdigest()


def test_uncertainty_is_the_spread_of_image_means_over_the_root_of_their_number():
    """A 1x1 convolution that passes its input on: the formula can be computed by hand from the images."""
    module = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()).eval())
    with torch.no_grad():
        module.get_submodule("0").weight.copy_(torch.eye(3).view(3, 3, 1, 1))
        module.get_submodule("0").bias.zero_()
    offsets = torch.randn(40, 3, 1, 1, generator=torch.Generator().manual_seed(2))
    images = offsets + 0.5 * torch.randn(40, 3, 6, 5, generator=torch.Generator().manual_seed(3))
    report = restore_batchnorm(module, images.split(7))
    x = images.double().numpy()
    error = x.mean((2, 3)).std(0, ddof=1) / np.sqrt(40) / x.std((0, 2, 3))
    assert report.uncertainty == pytest.approx(np.sqrt((error**2).mean()), rel=1e-9)
    assert report.uncertain_layer == "0"
    assert report.few_images
    assert "40 calibration images are few" in report.warning
    enough = int(re.search(r"about (\d+) images", report.warning).group(1))
    assert enough == math.ceil(40 * (report.uncertainty / 0.1) ** 2)


def test_enough_images_give_no_warning():
    module = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval())
    report = restore_batchnorm(module, torch.randn(200, 3, 4, 4, generator=torch.Generator().manual_seed(0)).split(50))
    assert not report.few_images
    assert report.warning == ""


def test_where_nothing_was_lost_nothing_is_restored_and_every_layer_has_its_reason():
    module = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)).eval())
    report = restore_batchnorm(module, batches())
    assert report.restored == ()
    assert report.uncertainty == 0
    assert [entry.layer for entry in report.skipped] == ["0"]
