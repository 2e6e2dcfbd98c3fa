"""Models no exporter would write: refused with what is wrong and where, or converted all the same; never in between."""

import itertools
import keyword

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rtool.converters import onnx2torch, onnx_to_torch
from rtool.converters.bundles.codegen.module_source import generate_source
from rtool.converters.lowering.tensors import control_flow
from rtool.converters.records.record import require_record
from rtool.errors import InputError, UnsupportedOperatorsError

REFUSED = (InputError, UnsupportedOperatorsError)
RANDOM = np.random.default_rng(0)
node = helper.make_node


def floats(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def numbers(*items):
    return np.array(items, np.int64)


def model(nodes, inputs, outputs, initializers=(), opset=17):
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(initializers).items()]
    graph = helper.make_graph(nodes, "g", infos, results, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"])], "has a cycle"),
        ([node("Add", ["x", "b"], ["b"])], "has a cycle"),
        ([node("Add", ["x", "nowhere"], ["b"], name="sum")], r"node 'sum' \(Add\): 'nowhere' is defined nowhere"),
        ([node("Relu", ["x"], ["b"]), node("Abs", ["x"], ["b"])], "'b' is already defined"),
        ([node("Relu", ["x"], ["x"]), node("Abs", ["x"], ["b"])], "'x' is already defined"),
    ],
)
def test_graphs_that_are_no_graphs_are_refused(nodes, message):
    with pytest.raises(InputError, match=message):
        onnx_to_torch(model(nodes, {"x": [2]}, ["b"]))


def test_inputs_and_weights_of_one_name_are_refused():
    twice = model([node("Add", ["x", "w"], ["y"])], {"x": [2]}, ["y"], {"w": floats(2)})
    twice.graph.initializer.append(twice.graph.initializer[0])
    with pytest.raises(InputError, match="two initializers share one name"):
        onnx_to_torch(twice)
    twice = model([node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"])
    twice.graph.input.append(twice.graph.input[0])
    with pytest.raises(InputError, match="two graph inputs share one name"):
        onnx_to_torch(twice)


ODD_NAMES = [
    *("forward", "train", "class", "weight", "self", "training", "parameters", "state_dict", "meta", "graph", "code"),
    *("type", "half", "import", "None", "lambda", "torch", "x.weight", "named_parameters.weight", "/self/MatMul"),
    *("__class__", "_modules", "1", "onnx::MatMul_3", "a/b", "a:0", "ünïcode", "forward/train/class/MatMul"),
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_of_weight_and_node_makes_a_module_and_source_that_run(name):
    weights = {name: floats(4), "k": floats(2, 1, 3, 3)}
    nodes = [
        node("Mul", ["x", name], ["scaled"], name=name),
        node("Conv", ["i", "k"], ["c"], name=f"{name}/Conv"),
        node("ReduceMean", ["c"], ["r"], keepdims=0),
        node("Add", ["scaled", "r"], ["y"]),
    ]
    module = onnx_to_torch(model(nodes, {"x": ["N", 4], "i": ["N", 1, 3, 3]}, ["y"], weights))
    x, image = torch.randn(3, 4), torch.randn(3, 1, 3, 3)
    convolved = torch.nn.functional.conv2d(image, torch.from_numpy(weights["k"])).mean()
    expected = x * torch.from_numpy(weights[name]) + convolved
    assert torch.allclose(module(x, image), expected, atol=1e-5)
    for parameter in dict(module.named_parameters()):
        assert not any(keyword.iskeyword(part) for part in parameter.split("."))
    namespace = {}
    exec(generate_source(module), namespace)
    alone = namespace["Model"]()
    alone.load_state_dict(module.state_dict())
    assert torch.allclose(alone.eval()(x, image), expected, atol=1e-5)


@pytest.mark.parametrize("names", [("class", "self"), ("None", "lambda"), ("a.b", "a_b"), ("a:0", "a/0"), ("é", "ü")])
def test_any_names_of_inputs_become_different_arguments(names):
    module = onnx_to_torch(model([node("Sub", names, ["y"])], {name: ["N", 2] for name in names}, ["y"]))
    left, right = torch.randn(3, 2), torch.randn(3, 2)
    assert torch.equal(module(left, right), left - right)
    assert [spec.name for spec in require_record(module).inputs] == list(names)
    namespace = {}
    exec(generate_source(module), namespace)
    assert torch.equal(namespace["Model"]()(left, right), left - right)


def external(folder, **entries):
    """A model whose weight lies outside the file, with some of its entries changed (None: left out)."""
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    proto = model([node("Add", ["x", "w"], ["y"])], {"x": [3]}, ["y"], {"w": np.ones(3, np.float32)})
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    stored = onnx.load(path, load_external_data=False)
    kept = {entry.key: entry.value for entry in stored.graph.initializer[0].external_data} | entries
    del stored.graph.initializer[0].external_data[:]
    for key, value in kept.items():
        if value is not None:
            stored.graph.initializer[0].external_data.add(key=key, value=value)
    path.write_bytes(stored.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../weights.bin"}, "leaves the model's folder"),
        ({"location": "a/../../weights.bin"}, "leaves the model's folder"),
        ({"location": "/etc/hostname"}, "leaves the model's folder"),
        ({"location": "."}, "is the model's folder"),
        ({"location": None}, "needs one location"),
        ({"offset": None, "affset": "4"}, "got location, length, affset"),
        ({"offset": "4"}, r"expected bytes 4\.\.16"),
        ({"offset": "-4"}, "."),
        ({"offset": "99999999999999999999"}, "."),
        ({"offset": "four"}, "."),
        ({"length": "8"}, r"shape \[3\] needs 12 bytes, the file declares 8"),
    ],
)
def test_external_data_of_the_wrong_place_or_size_is_refused(tmp_path, entries, message):
    path = external(tmp_path / "inside", **entries)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 12)
    with pytest.raises(InputError, match=message) as caught:
        onnx_to_torch(path)
    assert "model.onnx" in str(caught.value)


def test_external_data_behind_a_link_out_of_the_folder_is_refused(tmp_path):
    path = external(tmp_path / "inside")
    (tmp_path / "inside" / "weights.bin").rename(tmp_path / "weights.bin")
    (tmp_path / "inside" / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(InputError, match="leaves the model's folder"):
        onnx_to_torch(path)
    (tmp_path / "weights.bin").rename(tmp_path / "inside" / "real.bin")
    (tmp_path / "inside" / "weights.bin").unlink()
    (tmp_path / "inside" / "weights.bin").symlink_to("real.bin")
    assert onnx_to_torch(path)(torch.zeros(3)).tolist() == [1, 1, 1]


HUGE = 1 << 40
ABSURD = {
    "input": ([node("Relu", ["x"], ["y"])], {"x": [1, HUGE]}, {}),
    "ConstantOfShape": (
        [node("ConstantOfShape", ["n"], ["c"]), node("Add", ["x", "c"], ["y"])],
        {"x": [1]},
        {"n": numbers(HUGE)},
    ),
    "ConstantOfShape of a shape": (
        [
            node("Shape", ["x"], ["s"]),
            node("Concat", ["s", "s"], ["t"], axis=0),
            node("ConstantOfShape", ["t"], ["c"]),
            node("Add", ["x", "c"], ["y"]),
        ],
        {"x": [30_000, 30_000]},
        {},
    ),
    "Range": (
        [node("Range", ["a", "n", "d"], ["r"]), node("Cast", ["r"], ["c"], to=1), node("Add", ["x", "c"], ["y"])],
        {"x": [1]},
        {"a": np.array(0), "n": np.array(HUGE), "d": np.array(1)},
    ),
    "Tile": (
        [node("Tile", ["i", "n"], ["t"]), node("Cast", ["t"], ["c"], to=1), node("Add", ["x", "c"], ["y"])],
        {"x": [1]},
        {"i": numbers(*range(2000)), "n": numbers(10**7)},
    ),
    "Pad": (
        [
            node("Constant", [], ["c"], value_floats=[1.0, 2.0]),
            node("Pad", ["c", "n"], ["p"]),
            node("Add", ["x", "p"], ["y"]),
        ],
        {"x": [1]},
        {"n": numbers(HUGE, 0)},
    ),
    "outer sum": (
        [
            node("ConstantOfShape", ["a"], ["c"]),
            node("ConstantOfShape", ["b"], ["d"]),
            node("Add", ["c", "d"], ["e"]),
            node("Add", ["x", "e"], ["y"]),
        ],
        {"x": [1]},
        {"a": numbers(200_000, 1), "b": numbers(1, 200_000)},
    ),
    "weight": ([node("Add", ["x", "w"], ["y"])], {"x": [1]}, {"w": floats(2)}),
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_sizes_are_refused_before_memory_is_asked_for(name):
    nodes, inputs, initializers = ABSURD[name]
    proto = model(nodes, inputs, ["y"], initializers)
    if name == "weight":
        proto.graph.initializer[0].dims[0] = HUGE
    with pytest.raises(InputError, match=r"absurd|needs|cannot be computed"):
        onnx_to_torch(proto)


@pytest.mark.parametrize(
    ("operator", "arrays", "attributes", "message"),
    [
        ("Conv", [floats(2, 1, 3, 3)], {"kernel_shape": [5, 5]}, r"kernel_shape \[5, 5\] contradicts its weight"),
        ("Conv", [floats(2, 1, 3, 3)], {"Strides": [2, 2]}, "no revision of it has an attribute 'Strides'"),
        ("Conv", [floats(2, 1, 3, 3)], {"strides": [0, 2]}, "must be positive"),
        ("Conv", [floats(2, 1, 3, 3)], {"group": 0}, "does not fit 0 groups"),
        ("ConvTranspose", [floats(1, 2, 3, 3)], {"kernel_shape": [1]}, "contradicts its weight"),
        ("Gather", [floats(2)], {}, "input 1 .* is float, expected int32, int64"),
        ("Relu", [floats(2)], {}, "expects 1 inputs, got 2"),
    ],
)
def test_a_node_that_contradicts_itself_is_refused_by_name(operator, arrays, attributes, message):
    names = [f"w{index}" for index in range(len(arrays))]
    bad = node(operator, ["x", *names], ["y"], name="bad", **attributes)
    proto = model([bad], {"x": [1, 1, 8, 8]}, ["y"], dict(zip(names, arrays, strict=True)))
    with pytest.raises(UnsupportedOperatorsError, match=rf"node 'bad' \({operator}, opset 17\): .*{message}"):
        onnx_to_torch(proto)


def test_attributes_that_lost_their_meaning_are_left_alone():
    proto = model([node("Dropout", ["x"], ["y"], is_test=1)], {"x": [2]}, ["y"], opset=7)
    assert onnx_to_torch(proto)(torch.ones(2)).tolist() == [1, 1]


def test_text_that_is_no_text_and_doubled_or_unknown_versions_are_refused(tmp_path):
    whole = model([node("Relu", ["x"], ["y"], name="activate")], {"x": [2]}, ["y"])
    path = tmp_path / "m.onnx"
    path.write_bytes(whole.SerializeToString().replace(b"activate", b"act\xff\xfeate"))
    with pytest.raises(InputError, match="not UTF-8 text"):
        onnx_to_torch(path)
    whole.opset_import.add(domain="", version=13)
    with pytest.raises(InputError, match="imported twice"):
        onnx_to_torch(whole)
    del whole.opset_import[1:]
    whole.ir_version = 99
    with pytest.raises(InputError, match="IR version 99 is newer"):
        onnx_to_torch(whole)


def loop(trips, sequence=False):
    """x doubled `trips` times, or a sequence grown that often."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Add", ["v", "v"], ["w"]), node("Identity", ["go"], ["on"])],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("v", TensorProto.FLOAT, [1])],
        [info("on", TensorProto.BOOL, []), info("w", TensorProto.FLOAT, [1])],
    )
    if sequence:
        body.node[0].op_type = "SequenceInsert"
    return model(
        [node("Loop", ["m", "go", "x"], ["y"], name="repeat", body=body)],
        {"x": [1]},
        ["y"],
        {"m": np.array(trips), "go": np.array(True)},
    )


def test_loops_are_unrolled_when_they_are_short_and_can_be_expressed(monkeypatch):
    monkeypatch.setattr(control_flow, "_LARGEST", 200)
    assert onnx_to_torch(loop(3))(torch.ones(1)).tolist() == [8]
    with pytest.raises(UnsupportedOperatorsError, match=r"node 'repeat' \(Loop.*more than 200 nodes"):
        onnx_to_torch(loop(1 << 40))
    with pytest.raises(UnsupportedOperatorsError, match=r"'repeat' \(Loop"):
        onnx_to_torch(loop(3, sequence=True))


@pytest.mark.timeout(60)  # a hang, not a measure of speed
def test_ten_thousand_nodes_convert_and_agree_with_onnx_runtime(run_onnx):
    names = ["x", *(f"v{index}" for index in range(9_999)), "y"]
    nodes = [
        node(("Relu", "Neg", "Sigmoid", "Add")[index % 4], [a] if index % 4 != 3 else [a, "w"], [b], name=f"n{index}")
        for index, (a, b) in enumerate(itertools.pairwise(names))
    ]
    proto = model(nodes, {"x": ["N", 3]}, ["y"], {"w": floats(3)})
    assert len(proto.graph.node) == 10_000
    module = onnx_to_torch(proto)
    x = floats(2, 3)
    with torch.no_grad():
        assert np.allclose(module(torch.from_numpy(x)).numpy(), run_onnx(proto, x)[0], atol=1e-6)


def test_a_file_that_no_runtime_takes_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "m.onnx"
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    onnx.save(model(nodes, {"x": ["N", 5]}, ["y"], {"w": floats(4, 4)}), path)
    with pytest.raises(InputError, match=r"m\.onnx"):
        onnx2torch(path, tmp_path / "out.rtool")
    assert not (tmp_path / "out.rtool").exists()


@pytest.mark.parametrize("name", ["torch", "F", "nn", "Tensor", "self", "getattr", "inf"])
def test_an_input_may_be_called_like_what_the_code_refers_to(name):
    nodes = [node("Relu", [name], ["h"]), node("Gemm", ["h", "w"], ["y"], transB=1)]
    module = onnx_to_torch(model(nodes, {name: ["n", 3]}, ["y"], {"w": floats(2, 3)}))
    namespace = {}
    exec(generate_source(module), namespace)
    alone = namespace["Model"]()
    alone.load_state_dict(module.state_dict())
    x = torch.randn(4, 3)
    assert torch.equal(alone(x), module(x))


def test_attributes_that_onnx_leaves_to_tools_are_let_be():
    mine = node("Relu", ["x"], ["y"], __note=1)
    x = torch.randn(2)
    assert torch.equal(onnx_to_torch(model([mine], {"x": [2]}, ["y"]))(x), torch.relu(x))
    with pytest.raises(UnsupportedOperatorsError, match="no revision of it has an attribute '_note'"):
        onnx_to_torch(model([node("Relu", ["x"], ["y"], _note=1)], {"x": [2]}, ["y"]))


@pytest.mark.parametrize(("key", "value"), [("offset", "-4"), ("offset", "x"), ("length", "-1"), ("location", "a\0b")])
def test_damaged_entries_of_external_data_are_named(tmp_path, key, value):
    proto = model([node("Gemm", ["x", "w"], ["y"], transB=1)], {"x": ["n", 3]}, ["y"], {"w": floats(2, 3)})
    tensor = proto.graph.initializer[0]
    (tmp_path / "weights").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for name, text in ({"location": "weights"} | {key: value}).items():
        tensor.external_data.add(key=name, value=text)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match=f"initializer 'w': external data {key} is"):
        onnx_to_torch(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"pads": [-1] * 4}, "must not be negative"), ({"group": 2}, "expects 6 channels, the input has 3")],
)
def test_convolutions_that_no_runtime_computes_are_refused(options, message):
    proto = model([node("Conv", ["x", "w"], ["y"], **options)], {"x": ["n", 3, 8, 8]}, ["y"], {"w": floats(4, 3, 3, 3)})
    with pytest.raises(UnsupportedOperatorsError, match=message):
        onnx_to_torch(proto)


@pytest.mark.parametrize(("called", "opset", "message"), [("twice", 17, "Cyclic"), ("Relu", 13, "Opset mismatch")])
def test_functions_that_cannot_be_inlined_are_refused(called, opset, message):
    body = [node(called, ["a"], ["b"], domain="mine" if called == "twice" else "")]
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("mine", 1)]
    proto = model([node("twice", ["x"], ["y"], domain="mine")], {"x": [2]}, ["y"])
    proto.functions.append(helper.make_function("mine", "twice", ["a"], ["b"], body, imports))
    proto.opset_import.append(helper.make_opsetid("mine", 1))
    with pytest.raises(InputError, match=f"functions cannot be inlined \\({message}"):
        onnx_to_torch(proto)
