"""An edit is told from the graph itself; training, freezing and restored BatchNorm are none."""

import re

import pytest
import torch
from torch import nn

from rtool.converters import export, load_bundle, onnx_to_torch, restore_batchnorm, save_bundle, write_back
from rtool.converters.weights.module_edits import difference_from_conversion, difference_from_source
from rtool.converters.weights.writing_back import NoPlaceError
from rtool.errors import InputError


def output_of(module):
    return next(node for node in module.graph.nodes if node.op == "output")


def append_linear(module):
    module.add_submodule("extra", nn.Linear(6, 4))
    end = output_of(module)
    with module.graph.inserting_before(end):
        end.args = (module.graph.call_module("extra", (end.args[0],)),)
    module.recompile()


def append_relu(module):
    end = output_of(module)
    with module.graph.inserting_before(end):
        end.args = (module.graph.call_function(torch.relu, (end.args[0],)),)
    module.recompile()


def replace_activation(module):
    path = next(name for name, layer in module.named_modules() if isinstance(layer, nn.PReLU))
    slope = module.get_submodule(path)
    module.set_submodule(path, nn.PReLU(8))
    assert slope.weight.shape == module.get_submodule(path).weight.shape
    module.get_submodule(path).register_forward_hook(lambda *_: None)


def change_stride(module):
    next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d)).stride = (1, 1)


def return_an_inner_value(module):
    end = output_of(module)
    end.args = (end.all_input_nodes[0].all_input_nodes[0],)
    module.graph.eliminate_dead_code()
    module.recompile()


def override_forward(module):
    layer = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    forward = layer.forward
    layer.forward = lambda x: 2 * forward(x)


def change_class(module):
    class Conv2d(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).abs()

    next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d)).__class__ = Conv2d


EDITS = {
    append_linear: r"no place for 'extra\.weight' \(and 1 more\)",
    append_relu: "has 'relu' where its source returns",
    replace_activation: r"\(PReLU.*, 1 hooks\) where its source has .* \(PReLU",
    change_stride: r"stride=\(1, 1\).* where its source has .*stride=\(2, 2\)",
    override_forward: r"\(Conv2d.*, a forward of its own\) where its source has .* \(Conv2d",
    change_class: r"\(Conv2d.*, class .*Conv2d\) where its source has .* \(Conv2d",
    return_an_inner_value: "the module .* where its source",
}


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edit_is_found_and_told(edit, model_file):
    module = onnx_to_torch(model_file)
    edit(module)
    assert re.search(EDITS[edit], difference_from_source(module, model_file))


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edited_module_is_re_exported_and_never_saved_as_its_source(edit, model_file, tmp_path):
    module = onnx_to_torch(model_file)
    edit(module)
    with pytest.raises(NoPlaceError, match=rf"edited: .*{EDITS[edit]}.*export"):
        write_back(module, model_file)
    with pytest.raises(InputError, match=rf"edited: .*{EDITS[edit]}.*export"):
        save_bundle(module, tmp_path / "m.rtool", source=model_file)
    assert not any(tmp_path.glob("m.rtool*"))
    if edit in (override_forward, change_class):  # what the graph itself does not show
        steps = export(module, tmp_path / "m.onnx", source=model_file).steps
        assert "re-export" in [step.name for step in steps]


def test_a_hook_on_the_module_itself_is_refused(model_file, tmp_path):
    module = onnx_to_torch(model_file)
    hook = module.register_forward_hook(lambda _module, _inputs, output: output * 0)
    with pytest.raises(InputError, match="forward hook of its own"):
        export(module, tmp_path / "m.onnx", source=model_file)
    with pytest.raises(NoPlaceError, match="1 hooks"):
        write_back(module, model_file)
    hook.remove()
    write_back(module, model_file)


def train(module):
    optimiser = torch.optim.SGD(module.train().parameters(), lr=0.1)
    module(torch.randn(8, 3, 16, 8)).square().mean().backward()
    optimiser.step()


@pytest.mark.parametrize("how", ["as converted", "trained", "frozen", "restored", "restored and trained", "bundled"])
def test_what_is_no_edit_makes_no_difference(how, model_file, tmp_path):
    module = onnx_to_torch(model_file, freeze=["*"] if how == "frozen" else [])
    if "restored" in how or how == "bundled":
        assert restore_batchnorm(module, [torch.randn(8, 3, 16, 8)]).restored
    if "trained" in how:
        train(module)
    if how == "bundled":
        module = load_bundle(save_bundle(module, tmp_path / "model.rtool", source=model_file)).module
    assert difference_from_source(module, model_file) == difference_from_conversion(module) == ""


@pytest.mark.parametrize("name", ["cnn", "vit"])
@pytest.mark.parametrize(("kind", "opset"), [("ts", 17), ("dy", 18)])
def test_conversions_of_one_file_are_the_same(name, kind, opset, exported):
    proto = exported(name, kind, opset)[1]
    assert difference_from_source(onnx_to_torch(proto), proto) == ""
