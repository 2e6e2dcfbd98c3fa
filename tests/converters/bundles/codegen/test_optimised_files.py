"""The same network reads the same whatever an optimiser left of its names, scopes and order of nodes."""

import io
import warnings

import onnx
import pytest
import torch
from torch import nn

import rtool
from rtool.benchmarks.conversion.model_source import EXPORTERS, OPTIMISERS, exported_by, measure, missed
from rtool.benchmarks.conversion.window_networks import SIZE, ConvNeXt, Swin
from rtool.converters import onnx_to_torch, restore_batchnorm
from rtool.converters.bundles.codegen.check import written_module
from rtool.converters.bundles.codegen.module_source import generate_source
from rtool.converters.zoo.iresnet import IResNet

NETWORKS = {
    "convnext_like": lambda: (ConvNeXt((1, 2), (4, 8), embedding_size=6), SIZE),
    "swin_like": lambda: (Swin((2, 1), 4, embedding_size=6), SIZE),
    "iresnet18": lambda: (IResNet((1, 1, 1, 2), input_size=(32, 32), embedding_size=8), (32, 32)),
}


@pytest.mark.parametrize(
    "network",
    ["convnext_like", *(pytest.param(name, marks=pytest.mark.slow) for name in ("swin_like", "iresnet18"))],
)
def test_every_file_of_a_network_is_readable_and_about_as_long_as_the_best(network):
    torch.manual_seed(0)
    module, size = NETWORKS[network]()
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand_like(tensor))  # exporters merge weights that are equal
    images = torch.randn(2, 3, *size)
    cells = []
    for exporter in EXPORTERS:
        model = exported_by(exporter, module.eval(), images)
        cells += [measure(network, exporter, name, optimise(model), images) for name, optimise in OPTIMISERS.items()]
    assert len(cells) == 8
    assert missed(cells) == []
    assert all(cell.longest <= 120 for cell in cells)


DEMO_LINES, DEMO_LINES_RESTORED = 220, 300


@pytest.fixture(scope="module")
def demo():
    from rtool.benchmarks.places import DEMO_MODEL

    return DEMO_MODEL


def test_the_demo_model_reads_as_the_papers_code(demo):
    text = generate_source(onnx_to_torch(demo))
    assert len(text.splitlines()) <= DEMO_LINES
    assert "getattr" not in text
    assert "add_module" not in text
    for line in (
        "class OSBlock(nn.Module):",
        "class LightConv3x3(nn.Module):",
        "class ChannelGate(nn.Module):",
        "        z = self.gate(self.conv2a(y)) + self.gate(self.conv2b(y))",
        "        return F.relu(self.conv3(y) + self.downsample(x))",
        "        self.conv2d = nn.Sequential(*(LightConv3x3(hidden_channels) for _ in range(4)))",
    ):
        assert f"{line}\n" in text


def test_the_demo_model_stays_short_with_restored_batchnorms(demo):
    module = onnx_to_torch(demo)
    images = torch.randn(16, 3, 128, 64, generator=torch.Generator().manual_seed(0))
    restore_batchnorm(module, [images])
    text = generate_source(module)
    assert len(text.splitlines()) <= DEMO_LINES_RESTORED
    assert "getattr" not in text
    assert "self.bn = nn.BatchNorm2d(out_channels)" in text
    with torch.no_grad():
        assert torch.equal(written_module(module.eval())(images), module(images))


def test_the_text_depends_on_the_network_alone_not_on_the_order_of_the_file(exported):
    model = exported("cnn", "ts", 13)[1]
    text = generate_source(onnx_to_torch(model))
    assert generate_source(onnx_to_torch(model)) == text
    waiting, known, nodes = list(model.graph.node), {"", "x"} | {t.name for t in model.graph.initializer}, []
    while waiting:
        ready = next(node for node in reversed(waiting) if set(node.input) <= known)
        nodes.append(ready)
        known |= set(ready.output)
        waiting.remove(ready)
    assert [node.name for node in nodes] != [node.name for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    again = generate_source(onnx_to_torch(model))
    assert sorted(again.splitlines()) == sorted(text.splitlines())


class Tail(nn.Module):
    """What a list must hold: members with gaps, a member called twice, tensors of its own, and a shortcut."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)])
        self.scales = nn.ParameterList([nn.Parameter(torch.randn(4, 1, 1)), nn.Parameter(torch.randn(4, 1, 1))])
        self.blocks = nn.ModuleDict({"first": nn.Conv2d(4, 4, 1), "second": nn.Conv2d(4, 4, 1)})

    def forward(self, x):
        y = self.layers[0](x)
        y = self.layers[2](self.layers[0](torch.relu(y)) * self.scales[0]) * self.scales[1]
        y = self.blocks["first"](y)
        return self.blocks["second"](torch.relu(self.layers[3](y))) + x


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: nn.Sequential(nn.Sequential(m), nn.ReLU(), Tail())])
def test_lists_and_what_cannot_be_called_are_written_without_getattr(wrap):
    torch.manual_seed(0)
    module = wrap(Tail()).eval()
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.randn(2, 4, 5, 5),), file, dynamo=False, opset_version=17)
    converted = onnx_to_torch(onnx.load_from_string(file.getvalue()))
    text = generate_source(converted)
    assert "getattr" not in text
    assert "add_module" not in text
    twin = written_module(converted)
    x = torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        assert torch.equal(twin(x), converted(x))
        assert torch.allclose(twin(x), module(x), atol=1e-5)


@pytest.mark.parametrize("network", ["cnn", "vit"])
def test_a_re_export_by_rtool_reads_as_its_source_did(exported, tmp_path, network):
    source, again = tmp_path / "source.onnx", tmp_path / "again.onnx"
    onnx.save(exported(network, "dy", 20)[1], source)
    rtool.onnx2torch(source, tmp_path / "m.rtool")
    rtool.export(tmp_path / "m.rtool", again)
    texts = [generate_source(onnx_to_torch(path)) for path in (source, again)]
    assert set(onnx_to_torch(again).state_dict()) == set(onnx_to_torch(source).state_dict())
    assert "getattr" not in texts[1]
    assert abs(len(texts[1].splitlines()) - len(texts[0].splitlines())) <= 2
