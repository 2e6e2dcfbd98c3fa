"""Which feature map a network has, and that it is taken in the same pass."""

import pytest
import torch
from torch import nn

from rtool.converters.lowering.conversion import onnx_to_torch
from rtool.converters.zoo.registry import build_architecture
from rtool.errors import ConfigError
from rtool.finetune.network.feature_maps import find_map


class Faces(nn.Module):
    """A map before BatchNorm, Dropout, Flatten, Linear and BatchNorm, and a second branch."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.PReLU(4), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU())
        self.tail = nn.Sequential(
            nn.BatchNorm2d(6), nn.Dropout(), nn.Flatten(), nn.Linear(6 * 16, 5), nn.BatchNorm1d(5)
        )
        self.other = nn.Conv2d(4, 7, 3)

    def forward(self, x):
        early = self.body[1](self.body[0](x))
        return self.tail(self.body[3](self.body[2](early))), self.other(early)


def images(size=16):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_by_default_the_map_is_what_the_last_flatten_reads():
    tap = find_map(Faces(), images(), 0)
    assert (tap.name, tap.channels, tap.size) == ("tail.0", 6, (4, 4))


def test_a_named_module_is_taken_in_the_same_pass():
    faces = Faces().eval()
    calls = []
    faces.body[0].register_forward_hook(lambda *_: calls.append(1))
    tap = find_map(faces, images(), 0, "body.2")
    calls.clear()
    (embedding, _), value = tap.run(images())
    assert len(calls) == 1
    torch.testing.assert_close(value, faces.body[2](faces.body[1](faces.body[0](images()))))
    torch.testing.assert_close(embedding, faces(images())[0])
    assert not faces.body[2]._forward_hooks


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("body.9", "no module 'body.9'"),
        ("tail.3", r"'tail.3': gives \[2, 5\], expected a feature map"),
        ("other", "'other': the embedding does not depend on it"),
        ("body", "module 'body' is never called itself"),
    ],
)
def test_a_name_that_gives_no_map_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        find_map(Faces(), images(), 0, name)


def test_a_network_of_tokens_has_no_map():
    vit = build_architecture("vit_tiny", input_size=(32, 32))
    with pytest.raises(ConfigError, match=r"model.map: the backbone has no feature map"):
        find_map(vit, images(32), 0)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    path = tmp_path_factory.mktemp("faces") / "faces.onnx"
    torch.manual_seed(0)
    faces = Faces().eval()
    torch.onnx.export(
        faces, (images(),), path, dynamo=False, input_names=["images"], dynamic_axes={"images": {0: "batch"}}
    )
    return faces, onnx_to_torch(path)


def test_a_converted_graph_has_the_same_map(converted):
    faces, module = converted
    tap = find_map(module, images(), 0)
    (embedding, _), value = tap.run(images())
    expected = find_map(faces, images(), 0).run(images())
    torch.testing.assert_close(value, expected[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(embedding, expected[0][0], atol=1e-5, rtol=1e-5)


def test_a_node_of_a_converted_graph_may_be_named_as_in_its_file(converted):
    faces, module = converted
    tap = find_map(module, images(), 0, "/body.2/Conv")
    expected = find_map(faces, images(), 0, "body.2").run(images())[1]
    torch.testing.assert_close(tap.run(images())[1], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="no node or module '/nowhere/Conv'"):
        find_map(module, images(), 0, "/nowhere/Conv")


def test_gradients_of_a_graphs_map_reach_its_parameters(converted):
    _, module = converted
    tap = find_map(module, images(), 0)
    tap.run(images())[1].sum().backward()
    assert sum(parameter.grad is not None for parameter in module.parameters()) >= 4
    module.zero_grad()
