"""A model of several inputs embeds images when each other input has a value; the values are part of its digest."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rtool.benchmarks import parity
from rtool.cli.main import run
from rtool.converters import Preprocessing
from rtool.errors import InputError
from rtool.finetune.embedding.embedders import open_embedder

PEOPLE = "synthetic-people:identities=4,images=8,seed=2,size=16x8"
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 16, 8, 3), dtype=np.uint8)
ARRAY = np.random.default_rng(1).standard_normal((1, 1, 16, 8)).astype(np.float32)


def masked(path, batch="N", mask=(1, 16, 8), extra=()):
    """Means over the image times a mask: one number per channel."""
    inputs = [
        helper.make_tensor_value_info("mask", TensorProto.FLOAT, [batch, *mask]),
        helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 16, 8]),
        *(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 2]) for name in extra),
    ]
    nodes = [
        helper.make_node("Mul", ["images", "mask"], ["covered"]),
        helper.make_node("ReduceMean", ["covered"], ["rows"], axes=[2, 3], keepdims=0),
    ]
    outputs = [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [batch, 3])]
    graph = helper.make_graph(nodes, "masked", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def expected(mask):
    images = Preprocessing(16, 8).normalise(PIXELS)
    return (images.astype(np.float64) * mask).mean(axis=(2, 3))


@pytest.mark.parametrize("batch", ["N", 4])
@pytest.mark.parametrize(("probe", "mask"), [("ones", 1.0), ("zeros", 0.0), (ARRAY, ARRAY)])
def test_every_image_gets_the_same_value_of_the_other_input(tmp_path, batch, probe, mask):
    path = masked(tmp_path / "m.onnx", batch)
    embedder = open_embedder(path, preprocessing="imagenet", probes={"mask": probe}, batch=2)
    np.testing.assert_allclose(embedder.embed(PIXELS), expected(mask), atol=1e-6)


def test_a_size_that_the_file_leaves_open_is_that_of_the_given_array(tmp_path):
    path = masked(tmp_path / "m.onnx", mask=("c", "h", "w"))
    embedder = open_embedder(path, preprocessing="imagenet", probes={"mask": ARRAY})
    np.testing.assert_allclose(embedder.embed(PIXELS), expected(ARRAY), atol=1e-6)


def test_an_input_that_is_read_and_has_no_value_is_named(tmp_path):
    path = masked(tmp_path / "m.onnx", extra=("unread",))
    with pytest.raises(InputError, match=r"needs more than images \(mask\), .*--probe NAME=zeros\|ones\|FILE"):
        open_embedder(path, preprocessing="imagenet")


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        ({"mask": np.concatenate([ARRAY, ARRAY])}, "found 2 rows, and one value is given to every image"),
        ({"mask": ARRAY[:, :, :15]}, "found float32 1 x 1 x 15 x 8, expected float32 batch x 1 x 16 x 8"),
        ({"mast": "ones"}, r"--probe mast: no such input; did you mean mask"),
        ({"mask": "ones", "images": "ones"}, "no input is left for the images"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(tmp_path, probes, message):
    with pytest.raises(InputError, match=message):
        open_embedder(masked(tmp_path / "m.onnx", extra=("unread",)), preprocessing="imagenet", probes=probes)


def test_of_two_like_images_the_one_with_a_value_is_the_other(tmp_path):
    path = masked(tmp_path / "m.onnx", mask=(3, 16, 8))
    with pytest.raises(InputError, match="none is known to be the image"):
        open_embedder(path, preprocessing="imagenet")
    embedder = open_embedder(path, preprocessing="imagenet", probes={"images": "ones"})
    np.testing.assert_allclose(embedder.embed(PIXELS), expected(1.0), atol=1e-6)


def test_embeddings_are_kept_by_the_values_of_the_other_inputs(tmp_path):
    path = masked(tmp_path / "m.onnx")
    digests = {
        open_embedder(path, preprocessing="imagenet", probes={"mask": probe}).digest()
        for probe in ("ones", "zeros", ARRAY, ARRAY + 1)
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "m.onnx", PEOPLE],
        ["embed", "m.onnx", PEOPLE, "-o", "e.npy"],
        ["gallery", "m.onnx", PEOPLE, "-o", "people"],
    ],
)
def test_commands_that_embed_take_the_value_and_say_it(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    masked(tmp_path / "m.onnx")
    assert run([*command, "--preprocessing", "imagenet", "--probe", "mask=ones"]) == 0
    assert "m.onnx: input mask is ones for every image" in capsys.readouterr().err


def test_parity_on_images_takes_the_value(tmp_path):
    path = masked(tmp_path / "m.onnx")
    report = parity(path, path, data=PEOPLE, preprocessing="imagenet", probes={"mask": "ones"})
    assert report.passed
    with pytest.raises(InputError, match=r"needs more than images \(mask\)"):
        parity(path, path, data=PEOPLE, preprocessing="imagenet")


def test_an_image_of_integers_is_refused_by_its_type(tmp_path):
    path = masked(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.INT32
    model.graph.node[0].input[0] = "floats"
    model.graph.node.insert(0, helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT))
    del model.graph.input[0]
    model.graph.initializer.append(onnx.numpy_helper.from_array(ARRAY, "mask"))
    onnx.save(model, path)
    with pytest.raises(InputError, match="input 'images' is int32, and images are uint8, float32"):
        open_embedder(path, preprocessing="imagenet,size=16x8")
