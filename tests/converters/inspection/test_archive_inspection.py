"""Files of torch are inspected without torch: what is reported is what torch says of the opened module."""

import json
import zipfile
from collections import Counter

import pytest
import torch
from torch import nn

from rtool.cli.main import run
from rtool.converters.files.torch_archives.forbidden_operators import RECORDED, registered
from rtool.converters.inspection.inspecting import inspect
from rtool.errors import InputError


class Block(nn.Module):
    """Tied weights, buffers of two types, one that is not saved, and a constant."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("unsaved", torch.ones(5), persistent=False)
        self.offset = torch.arange(4.0)

    def forward(self, x):
        x = self.norm(self.conv(x)).mean((2, 3))
        return self.second(self.first(x)) * self.scale.sum() + self.offset + self.unsaved.sum()


IMAGES = torch.randn(2, 3, 8, 8)


def norm_of(found):
    assert found.batchnorms is not None
    return found.batchnorms.present


@pytest.mark.parametrize("make", [torch.jit.script, lambda module: torch.jit.trace(module, IMAGES)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchscript_is_reported_as_torch_opens_it(tmp_path, make, dtype):
    module = Block().eval()
    made = make(module).to(dtype)
    torch.jit.save(made, tmp_path / "m.pt")
    opened = torch.jit.load(tmp_path / "m.pt")
    found = inspect(tmp_path / "m.pt")
    leaves = [layer for layer in opened.modules() if not list(layer.children())]
    assert found.operators == Counter(layer.original_name for layer in leaves)
    assert found.parameters == sum(parameter.numel() for parameter in opened.parameters())
    assert found.buffers == sum(buffer.numel() for buffer in opened.buffers() if buffer.is_floating_point())
    assert (found.precision, norm_of(found)) == (str(dtype).removeprefix("torch."), 1)


@pytest.mark.parametrize("batch", [None, torch.export.Dim("n", min=1)])
def test_an_exported_program_is_reported_as_torch_opens_it(tmp_path, batch):
    shapes = None if batch is None else ({0: batch},)
    torch.export.save(torch.export.export(Block().eval(), (IMAGES,), dynamic_shapes=shapes), tmp_path / "m.pt2")
    program = torch.export.load(tmp_path / "m.pt2")
    module = program.module()
    found = inspect(tmp_path / "m.pt2")
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert found.operators == Counter(str(call).split(".")[1] for call in calls)
    assert found.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert found.buffers == sum(buffer.numel() for buffer in module.buffers() if buffer.is_floating_point())
    assert (found.precision, norm_of(found)) == ("float32", 1)
    (image,) = found.inputs
    assert (image.name, image.dtype) == ("x", "float32")
    assert image.shape == (2 if batch is None else "batch", 3, 8, 8)
    assert found.batch == (2 if batch is None else "dynamic")


def rewritten(path, record, change):
    with zipfile.ZipFile(path) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    (name,) = [name for name in records if name.endswith(record)]
    records[name] = change(records[name])
    with zipfile.ZipFile(path, "w") as archive:
        for key, content in records.items():
            archive.writestr(key, content)


@pytest.mark.parametrize("kind", ["parameter", "user_input"])
def test_a_program_that_names_what_it_lacks_is_refused(tmp_path, kind, capsys):
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), path)

    def change(content):
        program = json.loads(content)
        for spec in program["graph_module"]["signature"]["input_specs"]:
            if kind == "parameter" and kind in spec:
                spec[kind]["parameter_name"] = "absent"
            if kind == "user_input" and kind in spec:
                spec[kind]["arg"]["as_tensor"]["name"] = "absent"
        return json.dumps(program).encode()

    rewritten(path, "models/model.json", change)
    assert run(["inspect", str(path)]) == 2
    assert "its program names 'absent', which is not in the file" in capsys.readouterr().err


def test_source_that_names_a_forbidden_operator_is_refused_without_torch(tmp_path):
    torch.jit.save(torch.jit.trace(nn.ReLU(), IMAGES), tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt") as archive:  # torch numbers a class that was traced before
        (source,) = [name for name in archive.namelist() if b"torch.relu(" in archive.read(name)]
    rewritten(tmp_path / "m.pt", source, lambda text: text.replace(b"torch.relu(", b"torch.from_file("))
    with pytest.raises(InputError, match="from_file"):
        inspect(tmp_path / "m.pt")


def test_the_recorded_operators_are_those_of_the_pinned_torch():
    assert registered() == RECORDED
