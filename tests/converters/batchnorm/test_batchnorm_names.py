"""Restored BatchNorms get names that Python takes, so that `model.py` can be written."""

import torch
from safetensors.torch import load_file
from torch import nn

from rtool.converters import load_model, onnx2torch


class Numbered(nn.Sequential):
    """Layers called 0, 1 and 2, of which the BatchNorm comes second."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[1](self[2](self[0](x))).mean((2, 3))


def test_a_batchnorm_behind_a_numbered_layer_has_a_name_that_python_takes(tmp_path):
    torch.manual_seed(0)
    network = Numbered(nn.Conv2d(3, 8, 3, bias=False), nn.PReLU(8), nn.BatchNorm2d(8))
    images = torch.randn(64, 3, 8, 8)
    network(images)  # statistics other than the initial ones
    names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
    torch.onnx.export(network.eval(), torch.zeros(2, 3, 8, 8), tmp_path / "m.onnx", dynamo=False, **names)
    folder = tmp_path / "m.rtool"
    onnx2torch(tmp_path / "m.onnx", folder, restore_bn=True, calibrate=[images])
    modules = dict(load_model(folder).module.named_modules())
    assert [path for path, layer in modules.items() if isinstance(layer, nn.BatchNorm2d)] == ["bn0_"]
    namespace: dict[str, object] = {}
    exec((folder / "model.py").read_text(), namespace)
    model = namespace["Model"]()
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    torch.testing.assert_close(model.eval()(images), network(images), rtol=0, atol=1e-5)
