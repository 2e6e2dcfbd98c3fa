"""Small networks, exported once a session with both of torch's exporters, and ONNX Runtime as the oracle."""

import io
import logging
import os
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn


class Gate(nn.Module):
    """Shared by all branches, as in OSNet: one module, called several times."""

    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, 2, 1)
        self.fc2 = nn.Conv2d(2, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class Branches(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn2 = nn.BatchNorm2d(channels, momentum=0.2)
        self.act = nn.PReLU(channels)
        self.gate = Gate(channels)

    def forward(self, x):
        left = self.act(self.bn1(self.conv1(x)))
        right = torch.relu(self.bn2(self.conv2(left)))
        return x + self.gate(left) + self.gate(right)


class SmallCnn(nn.Module):
    """What the re-identification and face networks are made of, at 3x16x8."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.layer1 = nn.Sequential(Branches(8), Branches(8))
        self.instance = nn.InstanceNorm2d(4, affine=True)
        self.fc = nn.Sequential(nn.Linear(8 * 4 * 2, 6), nn.BatchNorm1d(6))

    def forward(self, x):
        x = nn.functional.max_pool2d(self.stem(x), 3, 2, 1)
        x = self.layer1(x)
        a, b = torch.split(x, 4, 1)
        x = torch.cat([self.instance(a.contiguous()), b], 1)
        return nn.functional.normalize(self.fc(x.view(x.size(0), -1)))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(n, tokens, width))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


class SmallVit(nn.Module):
    """A vision transformer at 3x16x8."""

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 8, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.randn(1, 9, 8))
        self.blocks = nn.Sequential(Block(8, 2), Block(8, 2))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        return self.head(self.blocks(x)[:, 0])


ARCHITECTURES = {"cnn": SmallCnn, "vit": SmallVit}


def build(name):
    """A network in eval mode whose statistics and weights are all different."""
    torch.manual_seed(0)
    module = ARCHITECTURES[name]()
    with torch.no_grad():
        for buffer_name, buffer in module.named_buffers():
            if "running" in buffer_name:
                buffer.copy_(torch.rand_like(buffer) + 0.5)
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def export(module, kind, opset, batch="dynamic", fused=True):
    """The bytes of an export by the TorchScript ("ts") or dynamo ("dy") exporter."""
    logging.disable(logging.WARNING)
    example = torch.randn(2 if batch == "dynamic" else batch, 3, 16, 8)
    buffer = io.BytesIO()
    names = {"input_names": ["x"], "output_names": ["y"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "ts":
            axes = {"dynamic_axes": {"x": {0: "N"}}} if batch == "dynamic" else {}
            mode = {} if fused else {"training": torch.onnx.TrainingMode.PRESERVE}
            torch.onnx.export(module, example, buffer, dynamo=False, opset_version=opset, **names, **axes, **mode)
        else:
            shapes = {"dynamic_shapes": ({0: torch.export.Dim("N")},)} if batch == "dynamic" else {}
            torch.onnx.export(
                module,
                (example,),
                buffer,
                dynamo=True,
                opset_version=opset,
                optimize=fused,
                verbose=False,
                **names,
                **shapes,
            )
    return buffer.getvalue()


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """`exported(name, kind, opset, batch, fused)` -> (original module, ModelProto), each made once.

    Once for all test processes: they find each other's files, and a network of one name has the same weights in each.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported"
    folder.mkdir(exist_ok=True)
    cache = {}

    def get(name, kind, opset, batch="dynamic", fused=True):
        key = (name, kind, opset, batch, fused)
        if key not in cache:
            module = build(name)
            path = folder / f"{'-'.join(map(str, key))}.onnx"
            if not path.exists():
                mine = path.with_name(f"{os.getpid()}-{path.name}")
                mine.write_bytes(export(module, kind, opset, batch, fused))
                mine.replace(path)
            cache[key] = (module, path.read_bytes())
        module, data = cache[key]
        return module, onnx.load_from_string(data)

    return get


@pytest.fixture
def model_file(exported, tmp_path):
    """A fused TorchScript export of the small CNN, as a file."""
    path = tmp_path / "small.onnx"
    path.write_bytes(exported("cnn", "ts", 13)[1].SerializeToString())
    return path


@pytest.fixture(scope="session")
def run_onnx():
    """`run_onnx(proto, *arrays)` -> outputs of ONNX Runtime."""

    def run(proto, *arrays):
        session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        return session.run(None, dict(zip(names, arrays, strict=True)))

    return run


@pytest.fixture(scope="session")
def images():
    """`images(n)` -> float32 [n, 3, 16, 8], the same every time."""
    return lambda n: np.random.default_rng(n).standard_normal((n, 3, 16, 8)).astype(np.float32)
