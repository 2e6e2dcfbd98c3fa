"""Int8 networks learn their float32 selves: fake quantisation by its formula, the graph it gives, what is refused."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from rtool.cli.main import cli, run
from rtool.converters.lowering.conversion import onnx_to_torch
from rtool.converters.precision.int8 import calibrated
from rtool.errors import DataError, GateError, InputError
from rtool.finetune.distillation.quantised.fake_quantisation import FakeActivation, FakeWeight
from rtool.finetune.distillation.quantised.int8_distilling import Int8Training, distil_int8, train_int8, train_network
from rtool.finetune.distillation.quantised.quantised_network import quantised_network


class Small(nn.Module):
    """A 1x1 and a depthwise convolution as OSNet's, a gate that is called twice, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.point = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 1, bias=False)
        self.depth, self.gate = nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 12)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.depth(self.point(torch.relu(self.stem(images)))))
        for _ in range(2):
            maps = maps * torch.sigmoid(self.gate(maps.mean((2, 3), keepdim=True)))
        return self.fc(maps.mean((2, 3)))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "small.onnx"
    torch.manual_seed(3)
    torch.onnx.export(
        Small().eval(),
        (torch.zeros(1, 3, 32, 16),),
        path,
        dynamo=False,
        input_names=["images"],
        dynamic_axes={"images": {0: "batch"}},
    )
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for n in range(60):
        shade = rng.integers(0, 256, (4, 2, 3), dtype=np.uint8)
        Image.fromarray(shade).resize((16, 32)).save(folder / f"{n}.png")
    return folder


def images(count: int = 40) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.normal(size=(count, 3, 1, 1)) + 0.5 * rng.normal(size=(count, 3, 32, 16))).astype(np.float32)


def cosine(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)


def test_a_fake_activation_rounds_to_levels_and_has_the_gradients_of_lsq():
    fake = FakeActivation(0.1, 10)
    values = torch.tensor([-2.0, -0.93, 0.02, 0.07, 1.234, 30.0], requires_grad=True)
    found = fake(values)
    levels = np.clip(np.round(values.detach().numpy() / 0.1) + 10, 0, 255)
    np.testing.assert_allclose(found.detach().numpy(), (levels - 10) * 0.1, rtol=1e-6, atol=1e-7)
    found.sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 1, 1, 0]
    inside = levels[1:5] - 10 - values.detach().numpy()[1:5] / 0.1  # d rounded / d scale, arXiv:1902.08153
    expected = 0.1 * (inside.sum() + (0 - 10) + (255 - 10)) / np.sqrt(6 * 255)
    assert fake.growth.grad.item() == pytest.approx(expected, rel=1e-4)


def test_a_fake_weight_rounds_each_channel_by_its_largest_weight():
    weight = torch.tensor([[1.0, -0.5, 0.004], [0.02, 0.0, -0.0125]])
    fake = FakeWeight(weight)
    np.testing.assert_allclose(
        fake().detach().numpy(), [[1.0, -64 / 127, 1 / 127], [0.02, 0.0, -79 / 127 * 0.02]], 1e-6
    )
    (fake() * torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])).sum().backward()
    np.testing.assert_allclose(fake.change.grad.numpy(), [[1, 2, 3], [0.08, 0.1, 0.12]], rtol=1e-6)


def test_the_exported_graph_computes_what_the_trained_module_does(model_file):
    """Read back by the converter and by ONNX Runtime without optimisation, which would fuse integer kernels."""
    with calibrated(onnx.load(model_file), images(), every_layer=True) as quantiser:
        graph = quantiser.quantise(compact=False)
        network = quantised_network(graph, quantiser.float32)
    generator = torch.Generator().manual_seed(0)
    changes, growths = network.parameters()
    assert {node.op_type for node in graph.graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    assert len(network.layers) == 5  # the gate's weight once, though it is called twice
    with torch.no_grad():
        for parameter in changes:
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        for parameter in growths:
            parameter.add_(0.1)
        trained = network.module(torch.from_numpy(images())).numpy()
        read = onnx_to_torch(network.export())(torch.from_numpy(images())).numpy()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(network.export().SerializeToString(), options)
    ran = session.run(None, {"images": images()})[0]
    # A value within rounding of the middle of two levels may take either: few images, each by a level or so.
    for other in (read, ran):
        assert np.median(np.abs(other - trained)) < 1e-6
        assert cosine(other, trained).min() > 0.9995


def test_a_weight_that_is_read_in_two_ways_is_refused():
    square = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Gemm", ["x", "w"], ["a"], name="first", transB=1),
        onnx.helper.make_node("Gemm", ["a", "w"], ["y"], name="second"),
    ]
    shapes = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", shapes[:1], shapes[1:], [onnx.numpy_helper.from_array(square, "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    rows = np.random.default_rng(1).normal(size=(32, 4)).astype(np.float32)
    with pytest.raises(InputError, match="read in two ways"):
        train_int8(model, rows, Int8Training(steps=1))


def test_training_mends_step_sizes_that_are_too_wide(model_file):
    """Without a fault to mend, this network loses so little that training has nothing to gain."""
    float32, seen = onnx.load(model_file), images()
    wanted = onnxruntime.InferenceSession(model_file).run(None, {"images": seen})[0]
    lost = []
    for steps in (0, 60):
        with calibrated(float32, seen, every_layer=True) as quantiser:
            network = quantised_network(quantiser.quantise(compact=False), quantiser.float32)
        with torch.no_grad():
            for growth in network.parameters()[1]:
                growth.add_(2.0)
        training = Int8Training(steps=steps, scale_rate=0.1)
        train_network(network, torch.from_numpy(seen), torch.from_numpy(wanted), 16, training, lambda _: None)
        session = onnxruntime.InferenceSession(network.export().SerializeToString())
        lost.append(1 - cosine(session.run(None, {"images": seen})[0], wanted).mean())
    assert lost[1] < 0.25 * lost[0]


def test_the_file_has_every_layer_in_int8_and_its_manifest_the_measured_cosine(model_file, photos, tmp_path):
    result = distil_int8(
        model_file, photos, tmp_path / "int8.onnx", training=Int8Training(steps=2), preprocessing="imagenet"
    )
    step = next(step for step in result.steps if step.name == "int8")
    assert step.min_cosine >= 0.99
    assert "of its time" in step.detail or "of float32's time" in step.detail
    assert result.float32_nodes == ()
    graph = onnx.load(result.path).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert layers
    assert all(makers[node.input[0]] == makers[node.input[1]] == "DequantizeLinear" for node in layers)
    assert result.measured_on["images"] == 12  # a fifth of the photos, on which nothing was trained


def test_too_few_images_and_a_missed_gate_write_nothing(model_file, photos, tmp_path):
    with pytest.raises(DataError, match="at least 21"):
        distil_int8(model_file, photos, tmp_path / "a.onnx", images=20, preprocessing="imagenet")
    with pytest.raises(GateError):
        distil_int8(model_file, photos, tmp_path / "a.onnx", min_cosine=1.0, training=Int8Training(steps=0))
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["int8", "photos", "epochs=3"], "KEY=VALUE is of a run"),
        (["int8", "photos", "--dry-run"], "--dry-run is of a run"),
        (["osnet_x0_25", "photos", "--steps", "3"], "--steps is for STUDENT int8"),
        (["int8", "nowhere"], "nowhere"),
    ],
)
def test_options_of_the_other_form_are_refused(model_file, photos, arguments, words, capfd):
    given = [str(photos) if argument == "photos" else argument for argument in arguments]
    assert run(["distil", str(model_file), *given]) == 2
    assert words in capfd.readouterr().err


def test_the_command_writes_a_file(model_file, photos, tmp_path):
    path = tmp_path / "out.onnx"
    command = ["distil", str(model_file), "int8", str(photos), "-o", str(path), "--steps", "1", "--quiet"]
    assert CliRunner().invoke(cli, command).exit_code == 0
    assert path.exists()
