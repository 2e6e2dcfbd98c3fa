"""An export starts from what fits together: the module, its source graph, its preprocessing, and the inputs."""

import json
import re

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from rtool.bench import parity
from rtool.converters import Preprocessing, export, inspect, onnx2torch, onnx_to_torch
from rtool.converters.bundles.reference import load_model, open_runner
from rtool.converters.runtime.runners import OnnxRunner
from rtool.errors import InputError

SIZE = Preprocessing(16, 8)


def values(count, *size):
    return np.random.default_rng(0).standard_normal((count, *size)).astype(np.float32)


def output_of(module):
    return next(node for node in module.graph.nodes if node.op == "output")


def with_linear(module):
    module.add_submodule("extra", nn.Linear(6, 4))
    end = output_of(module)
    with module.graph.inserting_before(end):
        end.args = (module.graph.call_module("extra", (end.args[0],)),)
    module.recompile()
    return module.eval()


def with_relu(module):
    end = output_of(module)
    with module.graph.inserting_before(end):
        end.args = (module.graph.call_function(torch.relu, (end.args[0],)),)
    module.recompile()
    return module


@pytest.mark.parametrize(
    ("edit", "has_source", "reason"),
    [
        (with_linear, True, r"no place for 'extra\.weight'"),
        (with_linear, False, r"no place for 'extra\.weight'"),
        (with_relu, True, "has 'relu' where its source returns"),
    ],
)
def test_an_edited_module_is_re_exported_and_says_why(edit, has_source, reason, model_file, tmp_path, run_onnx):
    module = edit(onnx_to_torch(model_file))
    result = export(module, tmp_path / "out.onnx", source=model_file if has_source else None, simplifier="none")
    assert [step.name for step in result.steps] == ["fold", "re-export"]
    assert "not written back: " in result.steps[-1].detail
    assert re.search(reason, result.steps[-1].detail)
    written = onnx.load(result.path)
    for count in (1, 2, 3, 5):
        with torch.no_grad():
            expected = module(torch.from_numpy(values(count, 3, 16, 8))).numpy()
        got = run_onnx(written, values(count, 3, 16, 8))[0]
        assert np.abs(got - expected).max() <= 1e-5


def test_a_trained_weight_without_a_place_in_the_source_graph_is_re_exported(tmp_path, run_onnx):
    """The slopes are stored in float16 and cast by a node, in another shape than torch keeps them."""
    nodes = [helper.make_node("Cast", ["half"], ["s"], to=1, name="c"), helper.make_node("PRelu", ["x", "s"], ["y"])]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3, 4, 4]) for name in "xy"]
    slopes = numpy_helper.from_array(values(3, 1, 1).astype(np.float16), "half")
    graph = helper.make_graph(nodes, "cast", ends[:1], ends[1:], [slopes])
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    module = onnx_to_torch(source)
    with torch.no_grad():
        next(module.parameters()).add_(1)
    result = export(module, tmp_path / "out.onnx", source=source, inputs=values(4, 3, 4, 4))
    assert "'s' is computed by a node" in result.steps[1].detail
    expected = module(torch.from_numpy(values(4, 3, 4, 4))).detach().numpy()
    assert np.abs(run_onnx(onnx.load(result.path), values(4, 3, 4, 4))[0] - expected).max() <= 1e-6


def test_a_module_as_converted_needs_its_source_and_the_right_one(model_file, tmp_path, exported):
    module = onnx_to_torch(model_file)
    with pytest.raises(InputError, match="give `source`"):
        export(module, tmp_path / "out.onnx")
    (tmp_path / "other.onnx").write_bytes(exported("cnn", "ts", 17)[1].SerializeToString())
    with pytest.raises(InputError, match="is not the file"):
        export(module, tmp_path / "out.onnx", source=tmp_path / "other.onnx")
    assert [step.name for step in export(module, tmp_path / "out.onnx", source=model_file).steps] == ["write-back"]


@pytest.mark.parametrize(
    ("kind", "opset", "batch"),
    [
        ("dy", 18, 4),
        pytest.param("ts", 17, 1, marks=pytest.mark.slow),
        pytest.param("ts", 17, 4, marks=pytest.mark.slow),
        pytest.param("dy", 18, 1, marks=pytest.mark.slow),
    ],
)
def test_a_truly_baked_batch_is_measured_at_itself(batch, kind, opset, exported, tmp_path, run_onnx):
    """The class token is expanded to so many rows, so the module takes no other batch until it is rewritten."""
    path = tmp_path / "vit.onnx"
    proto = exported("vit", kind, opset, batch)[1]
    path.write_bytes(proto.SerializeToString())
    images = values(6, 3, 16, 8)
    singles = [run_onnx(proto, np.repeat(images[i : i + 1], batch, 0))[0][:1] for i in range(6)]
    kept = onnx.load(export(path, tmp_path / "out.onnx").path)
    assert kept.graph.input[0].type.tensor_type.shape.dim[0].dim_value == batch
    for wanted in ("dynamic", 6):
        result = export(path, tmp_path / f"{wanted}.onnx", batch=wanted)
        assert np.abs(run_onnx(onnx.load(result.path), images)[0] - np.concatenate(singles)).max() <= 1e-5
    torch_file = export(path, tmp_path / "out.pt2", format="pt2")
    with torch.no_grad():
        got = torch.export.load(torch_file.path).module()(torch.from_numpy(images[:batch])).numpy()
    assert np.abs(got - np.concatenate(singles)[:batch]).max() <= 1e-5
    module = with_relu(onnx_to_torch(path))
    assert f"batch {batch}" in export(module, tmp_path / "anew.onnx", source=path).steps[1].detail


def test_a_preprocessing_of_another_size_is_refused_with_both(model_file, tmp_path):
    with pytest.raises(InputError, match=r"is \S+ x 3 x 16 x 8, its preprocessing makes batch x 3 x 32 x 16"):
        export(model_file, tmp_path / "out.onnx", preprocessing=Preprocessing(32, 16))
    with pytest.raises(InputError, match="has a fixed input of 16x8, got size 32x16; leave the size out"):
        onnx2torch(model_file, tmp_path / "out.rtool", preprocessing=Preprocessing(32, 16))
    assert not list(tmp_path.glob("out*"))


BAD_INPUTS = {
    "expected batch x 3 x 16 x 8, got 4 x 3 x 16 x 16": values(4, 3, 16, 16),
    "expected batch x 3 x 16 x 8, got 3 x 16 x 8": values(3, 16, 8),
    "pixels: expected batch x 16 x 8 x 3, got 4 x 32 x 8 x 3": np.zeros((4, 32, 8, 3), np.uint8),
    "pixels: expected batch x 16 x 8 x 3, got 16 x 8 x 3": np.zeros((16, 8, 3), np.uint8),
    "no image": np.zeros((0, 16, 8, 3), np.uint8),
}


@pytest.mark.parametrize("message", BAD_INPUTS)
def test_inputs_of_another_shape_are_refused_with_both(message, model_file, tmp_path):
    with pytest.raises(InputError, match=message):
        export(model_file, tmp_path / "out.onnx", inputs=BAD_INPUTS[message], preprocessing=SIZE)


def test_float64_inputs_are_taken_as_the_models_type(model_file, tmp_path):
    assert export(model_file, tmp_path / "out.onnx", inputs=values(4, 3, 16, 8).astype(np.float64)).steps


def test_a_model_of_pixels_is_measured_on_pixels(model_file, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 8, 3), dtype=np.uint8)
    export(model_file, tmp_path / "pixels.onnx", embed_preprocessing=True, preprocessing=SIZE)
    result = export(tmp_path / "pixels.onnx", tmp_path / "again.onnx", inputs=pixels)
    assert result.measured_on["images"] == 3
    assert result.steps[0].max_rel <= 1e-5


def test_a_module_in_half_precision_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is float16; export the float32 model it was made from"):
        export(nn.Linear(3, 3).half(), tmp_path / "out.onnx", inputs=values(2, 3))


def with_unread_inputs(batch: int | str = "N") -> onnx.ModelProto:
    """A network with a camera and a view that no node reads, as both of torch's exporters leave them."""
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], name="conv"),
        helper.make_node("GlobalAveragePool", ["c"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["e"], name="flatten"),
    ]
    inputs = [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [batch, 3, 8, 6])]
    inputs += [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [batch]) for name in ("cam", "view/id")]
    outputs = [helper.make_tensor_value_info("e", onnx.TensorProto.FLOAT, [batch, 4])]
    graph = helper.make_graph(nodes, "unread", inputs, outputs, [numpy_helper.from_array(values(4, 3, 3, 3), "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("options", [{}, {"batch": 4}, {"fold_padded": True}, {"format": "pt2"}])
def test_inputs_that_no_node_reads_live_through_every_step(options, tmp_path):
    path = tmp_path / "unread.onnx"
    onnx.save(with_unread_inputs(), path)
    onnx2torch(path, tmp_path / "unread.rtool")
    module = load_model(tmp_path / "unread.rtool").module
    images, ids = torch.from_numpy(values(4, 3, 8, 6)), torch.zeros(4, dtype=torch.long)
    assert torch.equal(module(images), module(images, ids, ids))
    suffix = ".pt2" if options.get("format") else ".onnx"
    result = export(tmp_path / "unread.rtool", tmp_path / f"out{suffix}", **options)
    assert [spec.name for spec in open_runner(result.path).inputs] == ["images", "cam", "view/id"]
    assert parity(path, result.path, batch=4).passed


@pytest.mark.parametrize(("format", "suffix"), [("pt2", "pt2"), ("torchscript", "pt")])
def test_a_torch_file_opens_the_batch_of_every_input_that_has_one(format, suffix, tmp_path):
    model = with_unread_inputs(batch=2)
    model.graph.input.append(helper.make_tensor_value_info("sizes", onnx.TensorProto.FLOAT, [5]))
    model.graph.input.append(helper.make_tensor_value_info("scale", onnx.TensorProto.FLOAT, []))
    model.graph.node.insert(0, helper.make_node("Mul", ["images", "scale"], ["scaled"], name="scaled"))
    model.graph.node[1].input[0] = "scaled"
    onnx.save(model, tmp_path / "m.onnx")
    made = export(tmp_path / "m.onnx", tmp_path / f"m.{suffix}", format=format).path
    shapes = {spec.name: spec.shape for spec in open_runner(made).inputs}
    first = shapes["images"][0]
    assert shapes == {
        "images": (first, 3, 8, 6),
        "cam": (first,),
        "view/id": (first,),
        "sizes": (5,),
        "scale": (),
    }
    assert parity(tmp_path / "m.onnx", made).passed


def two_inputs(*, extra=False):
    """y = (x @ w) * m, and with `extra` an output without a batch axis."""
    names = {"x": ["N", 8], "m": ["N", 1]}
    nodes = [helper.make_node("Gemm", ["x", "w"], ["a"]), helper.make_node("Mul", ["a", "m"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 8])]
    if extra:
        nodes.append(helper.make_node("ReduceMean", ["w"], ["z"], keepdims=0))
        outputs.append(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, []))
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in names.items()]
    graph = helper.make_graph(nodes, "two", inputs, outputs, [numpy_helper.from_array(values(8, 8), "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("options", [{}, {"batch": 4}, {"simplifier": "onnxslim"}, {"fold_padded": True}])
def test_models_with_several_inputs_take_every_option(options, tmp_path):
    onnx.save(two_inputs(), tmp_path / "two.onnx")
    steps = export(tmp_path / "two.onnx", tmp_path / "out.onnx", **options).steps
    assert all(step.max_rel <= 1e-5 for step in steps)


def test_an_output_without_a_batch_axis_is_measured_too(tmp_path):
    onnx.save(two_inputs(extra=True), tmp_path / "two.onnx")
    assert export(tmp_path / "two.onnx", tmp_path / "out.onnx", fold_padded=True).steps


def test_two_images_are_enough_to_find_a_batch_baked_in_by_the_exporter(tmp_path, monkeypatch):
    """The check at 1, 2, 3 and 5 repeats images where there are fewer."""
    seen = []

    class Runner(OnnxRunner):
        def run(self, *arrays):
            seen.append(len(arrays[0]))
            return super().run(*arrays)

    monkeypatch.setattr("rtool.converters.exporting.step_log.open_onnx", Runner)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    export(module, tmp_path / "out.onnx", inputs=values(2, 3, 9, 9), simplifier="none")
    assert seen == [2, 1, 2, 3, 5]


def test_outputs_of_a_changed_number_get_names_of_their_own(model_file, tmp_path):
    module = onnx_to_torch(model_file)
    end = output_of(module)
    end.args = ((end.args[0], end.args[0].all_input_nodes[0]),)
    module.recompile()
    graph = onnx.load(export(module, tmp_path / "out.onnx", source=model_file).path).graph
    assert [output.name for output in graph.output] == ["output_0", "output_1"]


def test_torch_files_tell_their_history_and_preprocessing(model_file, tmp_path):
    for format, suffix in (("pt2", "pt2"), ("torchscript", "pt")):
        result = export(model_file, tmp_path / f"out.{suffix}", format=format, preprocessing=SIZE)
        found = inspect(result.path)
        assert [link.step for link in found.chain] == ["source", "exported"]
        assert found.preprocessing == SIZE
        assert json.loads(result.manifest.read_text())["chain"][-1]["detail"] == found.chain[-1].detail


def test_torch_files_of_others_have_no_history(tmp_path):
    program = torch.export.export(nn.Linear(2, 2), (torch.randn(2, 2),))
    torch.export.save(program, tmp_path / "other.pt2")
    found = inspect(tmp_path / "other.pt2")
    assert (found.chain, found.preprocessing) == ((), None)


def test_a_quantised_file_is_rewritten_as_it_is_or_not_at_all(model_file, tmp_path):
    images = np.random.default_rng(0).standard_normal((128, 3, 16, 8)).astype(np.float32)
    small = export(model_file, tmp_path / "int8.onnx", int8=True, inputs=images, min_cosine=0.5).path
    with pytest.raises(InputError, match=r"quantised .* export the float32 model"):
        export(small, tmp_path / "again.onnx", int8=True, inputs=images)
    assert not (tmp_path / "again.onnx").exists()
    again = onnx.load(export(small, tmp_path / "again.onnx", batch=4).path)
    assert {node.op_type for node in again.graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
