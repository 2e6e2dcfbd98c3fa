"""Which preprocessing a model gets: stated, else found in the graph, else guessed with a reason, else asked for.

The oracle is a network without its normalisation, fed by a written-out formula.
"""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.converters import IMAGENET, Preprocessing
from rtool.converters.files.model_file import ModelFile
from rtool.converters.preprocessing.decision import PreprocessingUnknownError, decide_preprocessing
from rtool.converters.preprocessing.evidence import PreprocessingEvidence, evidence_of_file, evidence_of_inputs
from rtool.converters.records.preprocessing import ARCFACE
from rtool.converters.records.record import TensorSpec
from rtool.errors import InputError

SIZE = (8, 6)
MEAN, STD = np.array(IMAGENET.mean), np.array(IMAGENET.std)
STEP = (1, 3, 1, 1)


def model(before=(), *, channels=3, layout="nchw", size=SIZE, metadata=None):
    """A convolution whose kernel is the identity, after nodes `(operator, constant or attributes)` on the image."""
    stored = [numpy_helper.from_array(np.eye(channels, dtype=np.float32)[..., None, None], "w")]
    nodes, value = [], "images"
    for index, (operator, constant, *attributes) in enumerate(before):
        inputs = [value]
        for place, array in enumerate(constant if isinstance(constant, tuple) else (constant,)):
            if array is not None:
                array = np.asarray(array)
                array = array.astype(np.float32) if array.dtype.kind == "f" else array
                stored.append(numpy_helper.from_array(array, f"c{index}_{place}"))
                inputs.append(f"c{index}_{place}")
        nodes.append(helper.make_node(operator, inputs, [f"v{index}"], **(attributes[0] if attributes else {})))
        value = f"v{index}"
    nodes.append(helper.make_node("Conv", [value, "w"], ["y"]))
    shape = ["n", channels, *size] if layout == "nchw" else ["n", *size, channels]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
    graph = helper.make_graph(
        nodes, "g", [images], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], stored
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(made, metadata or {})
    return made


def decided(proto, request=None, **options):
    return decide_preprocessing(evidence_of_file(ModelFile.in_memory(proto)), request, **options)


def per_channel(values):
    return np.asarray(values, np.float32).reshape(STEP)


IN_GRAPH = {
    "mxnet": ([("Sub", 127.5), ("Mul", 0.0078125)], (127.5,) * 3, (128.0,) * 3),
    "fast-reid": ([("Sub", per_channel(MEAN)), ("Div", per_channel(STD))], MEAN, STD),
    "multiplied first": ([("Mul", 1 / 127.5), ("Add", -1.0)], (127.5,) * 3, (127.5,) * 3),
    "three steps": (
        [("Div", 255.0), ("Sub", per_channel(MEAN / 255)), ("Div", per_channel(STD / 255))],
        MEAN,
        STD,
    ),
    "only divided": ([("Mul", 1 / 255)], (0.0,) * 3, (255.0,) * 3),
    "only a mean": ([("Sub", per_channel([123.68, 116.779, 103.939]))], (123.68, 116.779, 103.939), (1.0,) * 3),
    "behind other nodes": (
        [("Identity", None), ("Cast", None, {"to": 1}), ("Sub", 127.5), ("Mul", 1 / 128)],
        (127.5,) * 3,
        (128.0,) * 3,
    ),
    "pixels of 0 to 1": ([("Sub", per_channel(MEAN / 255)), ("Div", per_channel(STD / 255))], MEAN, STD),
    "channels reordered": (
        [
            ("Gather", np.array([2, 1, 0]), {"axis": 1}),
            ("Sub", per_channel(MEAN[::-1])),
            ("Div", per_channel(STD[::-1])),
        ],
        MEAN,
        STD,
    ),
    "channels last": ([("Sub", MEAN), ("Div", STD), ("Transpose", None, {"perm": [0, 3, 1, 2]})], MEAN, STD),
    "a mean image": (
        [("Sub", np.broadcast_to(per_channel(MEAN), (1, 3, *SIZE))), ("Div", per_channel(STD))],
        MEAN,
        STD,
    ),
}


@pytest.mark.parametrize("name", IN_GRAPH)
def test_a_graph_that_normalises_is_fed_pixels(name, run_onnx):
    before, mean, std = IN_GRAPH[name]
    proto = model(before, layout="nhwc" if name == "channels last" else "nchw")
    found = decided(proto)
    assert (found.kind, found.preprocessing.height, found.preprocessing.width) == ("graph", *SIZE)
    assert "the graph normalises" in found.reason
    pixels = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    (got,) = run_onnx(proto, found.preprocessing.normalise(pixels))
    expected = ((pixels - np.asarray(mean)) / np.asarray(std)).transpose(0, 3, 1, 2)
    if name == "channels reordered":
        expected = expected[:, ::-1]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("mean", "std", "fed"),
    [
        ((127.0, 115.0, 104.0), (70.0, 65.0, 66.0), 1.0),  # MXNet's bn_data
        ((0.49, 0.45, 0.41), (0.27, 0.25, 0.26), 255.0),  # trained on pixels of 0 to 1
    ],
)
def test_a_batchnorm_on_the_image_holds_the_range_of_its_pixels(mean, std, fed):
    norm = ("BatchNormalization", (np.ones(3), np.zeros(3), np.array(mean), np.square(std)))
    found = decided(model([norm]))
    assert found.kind == "graph"
    assert (found.preprocessing.mean, found.preprocessing.std) == ((0.0,) * 3, (fed,) * 3)
    assert "BatchNormalization" in found.reason


@pytest.mark.parametrize(
    "before",
    [
        [("Mul", -1.0)],
        [("BatchNormalization", (np.ones(3), np.zeros(3), np.full(3, 0.02), np.full(3, 0.98)))],
        [("Add", 1.0), ("Mul", 0.5)],  # undoes a normalisation to -1..1
        [("Mul", 2.0)],
        [("Relu", None), ("Sub", 127.5), ("Mul", 1 / 128)],
    ],
    ids=["negative", "statistics of normalised images", "back to 0..1", "a factor", "not on the image"],
)
def test_other_arithmetic_is_no_normalisation_of_pixels(before):
    found = decided(model(before, size=(112, 112)))
    assert (found.kind, found.preprocessing) == ("size", ARCFACE)


@pytest.mark.parametrize("before", [[("Sub", 127.5), ("Mul", -1 / 128)], [("Mul", -1 / 127.5), ("Add", 1.0)]])
def test_a_graph_that_inverts_its_pixels_normalises_them_all_the_same(before):
    found = decided(model(before))
    assert (found.kind, found.preprocessing.mean, found.preprocessing.std) == ("graph", (0.0,) * 3, (1.0,) * 3)


def test_means_in_reverse_tell_the_order_of_the_channels():
    found = decided(model([("Sub", per_channel(MEAN[::-1])), ("Div", per_channel(STD[::-1]))]))
    assert found.preprocessing.channel_order == "bgr"


def test_what_the_file_states_comes_first():
    stated = Preprocessing(*SIZE, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "bgr", "bicubic")
    metadata = {"rtool.preprocessing": json.dumps(stated.to_dict())}
    found = decided(model([("Sub", 127.5), ("Mul", 0.0078125)], metadata=metadata))
    assert (found.preprocessing, found.kind, found.reason) == (stated, "stated", "stated in the file")


@pytest.mark.parametrize("text", ["arcface", "imagenet", "mean=127.5,std=128", "clip"])
def test_normalising_twice_is_refused_with_what_the_graph_does(text):
    with pytest.raises(InputError, match=r"Sub, Mul: mean \[127.5.*would normalise twice; leave it out"):
        decided(model([("Sub", 127.5), ("Mul", 0.0078125)]), text)


def test_the_order_and_the_interpolation_may_be_said_of_a_graph_that_normalises():
    found = decided(model([("Sub", 127.5), ("Mul", 0.0078125)]), "raw,order=bgr,interpolation=bicubic")
    expected = Preprocessing(*SIZE, (0.0,) * 3, (1.0,) * 3, "bgr", "bicubic")
    assert (found.preprocessing, found.kind) == (expected, "graph")
    assert "the graph normalises" in found.reason
    assert "given: raw,order=bgr" in found.reason


def evidence(*shape, **known):
    shown = evidence_of_inputs("m.onnx", [TensorSpec("x", known.pop("dtype", "float32"), ("n", *shape))])
    return PreprocessingEvidence(**{**vars(shown), **known})


@pytest.mark.parametrize(
    ("shown", "expected", "word"),
    [
        (evidence(3, 112, 112), ARCFACE, "aligned face"),
        (evidence(3, 256, 128), IMAGENET, "person crop"),
        (evidence(3, 128, 128), Preprocessing(128, 128, ARCFACE.mean, ARCFACE.std), "aligned face"),
        (evidence(3, 99, 99, architecture="iresnet50"), Preprocessing(99, 99, ARCFACE.mean, ARCFACE.std), "iresnet50"),
        (evidence(3, 224, 224, architecture="resnet50"), Preprocessing(224, 224), "resnet50"),
    ],
)  # fmt: skip
def test_a_guess_says_what_it_rests_on(shown, expected, word):
    found = decide_preprocessing(shown)
    assert found.preprocessing == expected
    assert word in found.reason
    assert found.reason.startswith("guessed from the ")


@pytest.mark.parametrize(
    ("shown", "word"),
    [
        (evidence(3, 224, 224), "nor the size 224x224"),
        (evidence(3, 96, 64), "nor the size 96x64"),
        (evidence(1, 128, 128), "1 channel"),
        (evidence(3, 112, 112, architecture="osnet_x0_25"), "112x112 is not its size"),
        (evidence(3, 256, 128, architecture="iresnet18"), "256x128 is not its size"),
        (evidence(3, 224, 224, architecture="vision transformer"), "vision transformer"),
        (evidence(3, 112, 112, served=True), "server"),
        (evidence(3, "h", "w"), "--size"),
        (evidence(7, 8, 8), "7 channels"),
        (evidence_of_inputs("m.onnx", [TensorSpec("ids", "int64", ("n", 9))]), "2 axes"),
    ],
)
def test_what_nothing_tells_is_asked_for(shown, word):
    with pytest.raises(PreprocessingUnknownError, match=word) as raised:
        decide_preprocessing(shown)
    assert "--preprocessing" in str(raised.value)
    assert str(raised.value).startswith("m.onnx: ")


@pytest.mark.parametrize(
    ("shown", "text", "expected"),
    [
        (evidence(3, 64, 64), "imagenet", Preprocessing(64, 64)),
        (evidence(3, 64, 64), "arcface-bgr", Preprocessing(64, 64, ARCFACE.mean, ARCFACE.std, "bgr")),
        (evidence(1, 64, 64), "arcface", Preprocessing(64, 64, (127.5,), (127.5,), "grey")),
        (evidence(1, 64, 64), "raw", Preprocessing(64, 64, (0.0,), (1.0,), "grey")),
        (evidence(1, 64, 64), "mean=0,std=255", Preprocessing(64, 64, (0.0,), (255.0,), "grey")),
        (evidence(64, 64, 3), "raw", Preprocessing(64, 64, (0.0,) * 3, (1.0,) * 3, layout="nhwc")),
        (evidence(3, None, None), "mean=1,2,3,std=4,5,6,order=bgr,size=20x10,interpolation=nearest",
         Preprocessing(20, 10, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "bgr", "nearest")),
        (evidence(3, 112, 112), "order=bgr", Preprocessing(112, 112, ARCFACE.mean, ARCFACE.std, "bgr")),
        (evidence(3, 112, 112, stated=Preprocessing(112, 112), stated_in="stated"), "interpolation=bicubic",
         Preprocessing(112, 112, interpolation="bicubic")),
    ],
)  # fmt: skip
def test_a_request_says_all_or_a_part(shown, text, expected):
    assert decide_preprocessing(shown, text).preprocessing == expected
    assert text in decide_preprocessing(shown, text).reason


def test_clip_is_bicubic_with_its_own_numbers():
    made = decide_preprocessing(evidence(3, 224, 224), "clip").preprocessing
    np.testing.assert_allclose(np.divide(made.mean, 255), (0.48145466, 0.4578275, 0.40821073))
    np.testing.assert_allclose(np.divide(made.std, 255), (0.26862954, 0.26130258, 0.27577711))
    assert made.interpolation == "bicubic"


@pytest.mark.parametrize(
    ("shown", "text", "size", "words"),
    [
        (evidence(3, 256, 128), "imagenet", (64, 64), "fixed input of 256x128, got size 64x64"),
        (evidence(3, None, 128), "imagenet,size=64x64", None, "fixed input of .x128"),
        (evidence(3, None, None), "imagenet,size=64x64", (32, 32), "give it once"),
        (evidence(1, 64, 64), "imagenet", None, "1 channel; give 1 number"),
        (evidence(1, 64, 64), "arcface-bgr", None, "got order bgr"),
        (evidence(3, 64, 64), "mean=1,std=2,order=grey", None, "got order grey"),
        (evidence(3, 64, 64), Preprocessing(64, 64, layout="nhwc"), None, "layout"),
        (evidence(8, 4, 3, dtype="uint8"), "imagenet", None, "takes uint8 pixels.*twice"),
    ],
)
def test_a_request_that_the_model_cannot_have_is_refused(shown, text, size, words):
    with pytest.raises(InputError, match=words):
        decide_preprocessing(shown, text, size)


def test_the_mean_of_a_bundle_is_known_though_its_weights_are_elsewhere(tmp_path):
    import rtool
    from rtool.converters import load_model

    norm = ("BatchNormalization", (np.ones(3), np.zeros(3), np.full(3, 120.0), np.full(3, 3600.0)))
    onnx.save(model([norm]), tmp_path / "m.onnx")
    bundle = rtool.onnx2torch(tmp_path / "m.onnx", tmp_path / "m.rtool")
    assert bundle.preprocessing_origin.startswith("the graph normalises raw pixels")
    shown = load_model(bundle.output).evidence()
    assert shown.stated == bundle.preprocessing
    with pytest.raises(InputError, match="twice"):
        decide_preprocessing(shown, "imagenet")
