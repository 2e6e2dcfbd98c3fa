"""A graph that normalises pixels itself is recognised, however it is written; ONNX Runtime computes what it does."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.converters import onnx_to_torch
from rtool.converters.files.model_file import ModelFile
from rtool.converters.preprocessing.decision import decide_preprocessing
from rtool.converters.preprocessing.evidence import evidence_of_file

MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
BACKWARDS = slice(None, None, -1)


def columns(values, shape=(1, 3, 1, 1)):
    return np.asarray(values, np.float32).reshape(shape)


NORMALISED = [("Sub", ["q", "m"], ["a"], {}), ("Div", ["a", "s"], ["n"], {})]
NUMBERS = {"m": columns(MEAN), "s": columns(STD)}
BGR_NUMBERS = {"m": columns(MEAN[::-1]), "s": columns(STD[::-1])}
SPLIT = [("Split", ["x"], ["x0", "x1", "x2"], {"axis": 1})]
for _channel in range(3):
    SPLIT.append(("Sub", [f"x{_channel}", f"m{_channel}"], [f"a{_channel}"], {}))
    SPLIT.append(("Mul", [f"a{_channel}", f"s{_channel}"], [f"d{_channel}"], {}))
SPLIT_NUMBERS = {f"{name}{i}": np.float32(v[i]) for name, v in (("m", MEAN), ("s", 1 / STD)) for i in range(3)}
REVERSED = {"st": np.array([-1]), "en": np.array([-(2**31)]), "ax": np.array([1]), "sp": np.array([-1])}

FORMS = {
    "negated": (
        [("Sub", ["m", "x"], ["a"], {}), ("Div", ["a", "s"], ["n"], {})],
        {**NUMBERS, "s": columns(-STD)},
        False,
    ),
    "clipped": (
        [("Clip", ["x", "lo", "hi"], ["q"], {}), *NORMALISED],
        {**NUMBERS, "lo": np.float32(0), "hi": np.float32(255)},
        False,
    ),
    "backwards": (
        [("Slice", ["x", "st", "en", "ax", "sp"], ["q"], {}), *NORMALISED],
        {**BGR_NUMBERS, **REVERSED},
        True,
    ),
    "gathered": (
        [("Gather", ["x", "i"], ["q"], {"axis": 1}), *NORMALISED],
        {**BGR_NUMBERS, "i": np.array([2, 1, 0])},
        True,
    ),
    "split": ([*SPLIT, ("Concat", ["d0", "d1", "d2"], ["n"], {"axis": 1})], SPLIT_NUMBERS, False),
    "split and put together backwards": (
        [*SPLIT, ("Concat", ["d2", "d1", "d0"], ["n"], {"axis": 1})],
        SPLIT_NUMBERS,
        True,
    ),
    "depthwise": (
        [("Conv", ["x", "w1", "b1"], ["n"], {"group": 3})],
        {"w1": columns(1 / STD, (3, 1, 1, 1)), "b1": columns(-MEAN / STD, 3)},
        False,
    ),
    "diagonal": (
        [("Conv", ["x", "w1", "b1"], ["n"], {})],
        {"w1": columns(np.diag(1 / STD), (3, 3, 1, 1)), "b1": columns(-MEAN / STD, 3)},
        False,
    ),
}


def model(nodes, numbers):
    made = [helper.make_node(kind, inputs, outputs, **attributes) for kind, inputs, outputs, attributes in nodes]
    made.append(helper.make_node("Conv", ["n", "weight"], ["y"], name="conv"))
    weights = {**numbers, "weight": np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)}
    graph = helper.make_graph(
        made,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 64, 32])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "n")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("nodes", "numbers", "backwards"), FORMS.values(), ids=FORMS)
def test_such_a_graph_gets_raw_pixels_and_its_numbers_are_reported(nodes, numbers, backwards):
    proto = model(nodes, numbers)
    evidence = evidence_of_file(ModelFile.in_memory(proto))
    decided = decide_preprocessing(evidence)
    assert (decided.kind, decided.preprocessing.mean, decided.preprocessing.std) == ("graph", (0, 0, 0), (1, 1, 1))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 32)).astype(np.float32)
    (computed,) = ort.InferenceSession(proto.SerializeToString()).run(["n"], {"x": pixels})
    scaling = evidence.scaling
    expected = (pixels - columns(scaling.mean)) / columns(scaling.std)
    np.testing.assert_allclose(computed, expected[:, BACKWARDS] if backwards else expected, atol=1e-4)


@pytest.mark.parametrize("form", [name for name in FORMS if name not in ("depthwise", "diagonal")])
def test_its_numbers_are_not_trained(form):
    nodes, numbers, _ = FORMS[form]
    assert [name for name, _ in onnx_to_torch(model(nodes, numbers)).named_parameters()] == ["conv.weight"]


@pytest.mark.parametrize(
    ("nodes", "numbers"),
    [
        (
            [("Clip", ["x", "lo", "hi"], ["q"], {}), *NORMALISED],
            {**NUMBERS, "lo": np.float32(50), "hi": np.float32(255)},
        ),
        ([("Conv", ["x", "w1"], ["n"], {})], {"w1": columns(np.ones((3, 3)) / 100, (3, 3, 1, 1))}),
        ([("Conv", ["x", "w1"], ["n"], {"group": 3})], {"w1": columns([3, -2, 1], (3, 1, 1, 1))}),
        ([*SPLIT, ("Concat", ["d0", "d1", "d2"], ["n"], {"axis": 2})], SPLIT_NUMBERS),
    ],
    ids=["clip that cuts", "mixed channels", "learned factors", "another axis"],
)
def test_other_beginnings_are_no_normalisation(nodes, numbers):
    if numbers is SPLIT_NUMBERS:
        nodes = [*nodes[:-1], ("Concat", ["d0", "d1", "d2"], ["j"], {"axis": 2}), ("Reshape", ["j", "r"], ["n"], {})]
        numbers = {**numbers, "r": np.array([-1, 3, 64, 32])}
    assert evidence_of_file(ModelFile.in_memory(model(nodes, numbers))).scaling is None
