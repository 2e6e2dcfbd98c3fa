"""A rewritten batch gives, at every size, what the source gives image by image; anything else is refused."""

import io
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from rtool.converters import export, set_batch
from rtool.errors import InputError


class MergedRows(nn.Module):
    """Tokens: rows of all images are merged into one axis and split again, with a class token and positions."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.positions = nn.Parameter(torch.randn(1, 5, dim))
        self.mix, self.head = nn.Linear(dim, dim), nn.Linear(dim, 6)

    def forward(self, x):
        n = x.shape[0]
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(n, 1, 8), tokens], 1) + self.positions
        rows = self.mix(tokens.reshape(n * 5, 8)).relu().reshape(n, 5, 8)
        return self.head(rows[:, 0])


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))


def exported(module: nn.Module, batch: int, *, dynamic: bool = False) -> onnx.ModelProto:
    """A TorchScript export with a fixed batch in input, Reshape and Expand."""
    torch.manual_seed(0)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.randn(batch, 3, 8, 8),),
            file,
            dynamo=False,
            opset_version=13,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}} if dynamic else None,
        )
    return onnx.load_from_string(file.getvalue())


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": images}
    )[0]


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("build", [plain, MergedRows])
@pytest.mark.parametrize("fixed", [1, 2, 16])
def test_a_fixed_batch_becomes_dynamic(build, fixed):
    module = build()
    rewritten = set_batch(exported(module, fixed), "dynamic")
    onnx.checker.check_model(rewritten, full_check=True)
    for shape in (rewritten.graph.input[0], rewritten.graph.output[0]):
        assert shape.type.tensor_type.shape.dim[0].dim_param == "batch"
    for size in (1, 2, 3, 5, 16):
        with torch.no_grad():
            expected = module(torch.from_numpy(images(size))).numpy()
        assert np.abs(run(rewritten, images(size)) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("build", [plain, MergedRows])
@pytest.mark.parametrize(("source", "target"), [(1, 16), (16, 1), (2, 3), ("dynamic", 4)])
def test_a_batch_becomes_another_fixed_one(build, source, target):
    module = build()
    model = exported(module, 2, dynamic=True) if source == "dynamic" else exported(module, source)
    rewritten = set_batch(model, target)
    onnx.checker.check_model(rewritten, full_check=True)
    for shape in (rewritten.graph.input[0], rewritten.graph.output[0]):
        assert shape.type.tensor_type.shape.dim[0].dim_value == target
    with torch.no_grad():
        expected = module(torch.from_numpy(images(target))).numpy()
    assert np.abs(run(rewritten, images(target)) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("target", ["dynamic", 5])
def test_replaced_constants_are_removed(target):
    source = exported(MergedRows(), 2)
    source.graph.initializer.append(numpy_helper.from_array(np.float32([1]), "never read, and not ours"))
    rewritten = set_batch(source, target)
    read = {name for node in rewritten.graph.node for name in node.input}
    assert [tensor.name for tensor in rewritten.graph.initializer if tensor.name not in read] == [
        "never read, and not ours"
    ]


def test_the_source_stays_and_nothing_is_rewritten_without_need():
    model = exported(plain(), 2)
    before = model.SerializeToString()
    assert set_batch(model, 2).SerializeToString() == before
    set_batch(model, "dynamic")
    assert model.SerializeToString() == before
    dynamic = exported(plain(), 2, dynamic=True)
    assert set_batch(dynamic, "dynamic").SerializeToString() == dynamic.SerializeToString()


def mixing_images() -> onnx.ModelProto:
    """Subtracts the batch's mean: an image's output depends on its neighbours."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph(nodes, "mixing", shape[:1], shape[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def one_weight_per_image() -> onnx.ModelProto:
    """A weight with a row for each of the two images."""
    weight = numpy_helper.from_array(np.float32([[1, 2, 3], [4, 5, 6]]), "w")
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "rows", shape[:1], shape[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("build", [mixing_images, one_weight_per_image])
def test_what_cannot_be_verified_is_refused(build):
    with pytest.raises(InputError, match="cannot be verified"):
        set_batch(build(), "dynamic")


@pytest.mark.parametrize("batch", [0, -1, True, 1.5, "many"])
def test_a_batch_is_a_positive_number_or_dynamic(batch):
    with pytest.raises(InputError, match="positive number or 'dynamic'"):
        set_batch(exported(plain(), 2), batch)


# -- graphs whose batch is not only their first axis -----------------------------------------------------------------


class Attention(nn.Module):
    """Attention over tokens: reshapes to [tokens, images * heads, width] and to [tokens * images, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.attention(x, x, x)[0].mean(1))


class Pooling(nn.Module):
    """Attention with learned queries, expanded to one set per image."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.queries = nn.Parameter(torch.randn(1, 3, 8))

    def forward(self, x):
        return self.attention(self.queries.expand(x.shape[0], -1, -1), x, x, need_weights=False)[0].flatten(1)


class Memory(nn.Module):
    """An LSTM that starts from zeros, then one that starts from a learned state."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTM(8, 4, batch_first=True), nn.LSTM(4, 4)
        self.start = nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x):
        state = self.start.expand(1, x.shape[0], 4).contiguous()
        return self.second(self.first(x)[0].transpose(0, 1), (state, state))[0][-1]


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 4, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x):
        return self.gru(x)[1].permute(1, 0, 2).flatten(1)


class Sampled(nn.Module):
    """Samples every image on one constant grid."""

    def forward(self, x):
        line = torch.linspace(-1, 1, 5)
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)[None].expand(x.shape[0], -1, -1, -1)
        return nn.functional.grid_sample(x[:, None], grid, align_corners=True).flatten(1)


def tokens(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 5, 8)).astype(np.float32)


def exported_tokens(module: nn.Module, batch: int, kind: str) -> onnx.ModelProto:
    file, example = io.BytesIO(), torch.randn(batch, 5, 8)
    names = {"input_names": ["x"], "output_names": ["y"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "ts":
            torch.onnx.export(module.eval(), example, file, dynamo=False, opset_version=17, **names)
        else:
            torch.onnx.export(module.eval(), (example,), file, dynamo=True, opset_version=20, verbose=False, **names)
    return onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize("fixed", [1, 4])
@pytest.mark.parametrize("kind", ["ts", "dy"])
@pytest.mark.parametrize("build", [Attention, Pooling, Memory, Gated, Sampled])
def test_a_batch_that_is_not_the_first_axis_is_followed(build, kind, fixed):
    torch.manual_seed(0)
    module = build()
    model = exported_tokens(module, fixed, kind)
    for batch in ("dynamic", 3):
        rewritten = set_batch(model, batch)
        onnx.checker.check_model(rewritten, full_check=True)
        for size in (1, 2, 5) if batch == "dynamic" else (3,):
            with torch.no_grad():
                expected = module(torch.from_numpy(tokens(size))).numpy()
            assert np.abs(run(rewritten, tokens(size)) - expected).max() <= 1e-5 * np.abs(expected).max()


def rows_of(nodes, weights, output) -> onnx.ModelProto:
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [4, 3, 8]), ("y", output))
    ]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "rows", shapes[:1], shapes[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


TOKEN = np.arange(8, dtype=np.float32).reshape(1, 1, 8)
ROWS = {
    "a token tiled": (
        [helper.make_node("Tile", ["w", "n"], ["t"]), helper.make_node("Concat", ["t", "x"], ["y"], axis=1)],
        {"w": TOKEN, "n": np.int64([4, 1, 1])},
        [4, 4, 8],
    ),
    "a slice of all images": (
        [helper.make_node("Slice", ["x", "from", "to", "from"], ["t"]), helper.make_node("Relu", ["t"], ["y"])],
        {"from": np.int64([0]), "to": np.int64([4])},
        [4, 3, 8],
    ),
    "a slice of all rows of all images": (
        [
            helper.make_node("Reshape", ["x", "rows"], ["r"]),
            helper.make_node("Slice", ["r", "from", "to", "from"], ["t"]),
            helper.make_node("Reshape", ["t", "back"], ["y"]),
        ],
        {"rows": np.int64([12, 8]), "from": np.int64([0]), "to": np.int64([12]), "back": np.int64([4, 24])},
        [4, 24],
    ),
    "equal rows added behind a transposition": (
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            helper.make_node("Add", ["t", "w"], ["a"]),
            helper.make_node("Transpose", ["a"], ["y"], perm=[1, 0, 2]),
        ],
        {"w": np.repeat(np.float32([[[1]], [[2]], [[3]]]), 4, axis=1)},
        [4, 3, 8],
    ),
    "a shape computed from the input": (
        [
            helper.make_node("Shape", ["x"], ["s"], end=1),
            helper.make_node("Concat", ["s", "rest"], ["all"], axis=0),
            helper.make_node("Expand", ["w", "all"], ["t"]),
            helper.make_node("Concat", ["t", "x"], ["y"], axis=1),
        ],
        {"w": np.repeat(TOKEN, 4, axis=0), "rest": np.int64([1, 8])},
        [4, 4, 8],
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_constants_that_hold_the_batch_follow_it(name):
    model = rows_of(*ROWS[name])
    images = np.random.default_rng(0).standard_normal((5, 3, 8)).astype(np.float32)
    expected = np.concatenate([run(model, np.repeat(images[i : i + 1], 4, axis=0))[:1] for i in range(5)])
    assert np.abs(run(set_batch(model, "dynamic"), images) - expected).max() <= 1e-6
    assert np.abs(run(set_batch(model, 5), images) - expected).max() <= 1e-6


def test_a_slice_of_some_images_is_refused():
    nodes, weights, _ = ROWS["a slice of all images"]
    with pytest.raises(InputError, match="output 'y' has no image axis"):
        set_batch(rows_of(nodes, {**weights, "to": np.int64([2])}, [2, 3, 8]), "dynamic")


def test_an_open_batch_that_a_reshape_fixes_is_opened_in_truth():
    model = rows_of([helper.make_node("Reshape", ["x", "s"], ["y"])], {"s": np.int64([1, 24])}, ["n", 24])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    values = np.random.default_rng(0).standard_normal((3, 3, 8)).astype(np.float32)
    assert np.array_equal(run(set_batch(model, "dynamic"), values), values.reshape(3, 24))


@pytest.mark.parametrize("symbol", ["n", "dynamic"])
def test_an_open_batch_that_mixes_images_is_refused_whatever_its_name(symbol):
    model = mixing_images()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = symbol
    with pytest.raises(InputError, match="batch dynamic: "):
        set_batch(model, "dynamic")


def test_dynamic_sizes_need_inputs_to_be_verified_with():
    model = rows_of([helper.make_node("Relu", ["x"], ["y"])], {}, [4, 3, "width"])
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "width"
    with pytest.raises(InputError, match="dynamic shape") as caught:
        set_batch(model, "dynamic")
    assert "constant" not in str(caught.value)
    rewritten = set_batch(model, "dynamic", inputs=[np.zeros((1, 3, 6), np.float32)])
    assert run(rewritten, np.ones((2, 3, 7), np.float32)).shape == (2, 3, 7)


def test_an_output_for_all_images_together_is_refused():
    model = rows_of([helper.make_node("ReduceMax", ["x"], ["y"], keepdims=0)], {}, [])
    with pytest.raises(InputError, match="single number for all images"):
        set_batch(model, "dynamic")


def two_inputs(first: str | int) -> onnx.ModelProto:
    """Embeddings against a gallery [8, 5] that is an input without a row per image."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["e"]), helper.make_node("MatMul", ["e", "gallery"], ["y"])]
    shapes = {"x": [first, 6], "gallery": [8, 5], "y": [first, 5]}
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    weight = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    graph = helper.make_graph(nodes, "g", infos[:2], infos[2:], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weight_as_first_input() -> onnx.ModelProto:
    """List the initializers among the inputs, as files before IR version 4 do."""
    model = two_inputs("n")
    model.graph.input.insert(0, helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 8]))
    return model


@pytest.mark.parametrize(
    ("source", "batch"),
    [(two_inputs(4), 2), (two_inputs(4), "dynamic"), (two_inputs("n"), 3), (weight_as_first_input(), 2)],
)
@pytest.mark.parametrize("fp16", [False, True])
def test_an_input_without_a_row_per_image_stays_whole(source, batch, fp16, tmp_path):
    onnx.save(source, tmp_path / "in.onnx")
    result = export(tmp_path / "in.onnx", tmp_path / "out.onnx", batch=batch, fp16=fp16)
    assert {"batch", "simplify"} <= {step.name for step in result.steps}
    written = onnx.load(tmp_path / "out.onnx")
    weights = {tensor.name for tensor in written.graph.initializer}
    firsts = [value.type.tensor_type.shape.dim[0] for value in written.graph.input if value.name not in weights]
    assert [dim.dim_value or dim.dim_param for dim in firsts] == ["batch" if batch == "dynamic" else batch, 8]


def test_an_export_error_names_the_model_and_nothing_else_is_printed(tmp_path, capfd):
    nodes, weights, _ = ROWS["a slice of all images"]
    path = tmp_path / "sliced.onnx"
    onnx.save(rows_of(nodes, {**weights, "to": np.int64([2])}, [2, 3, 8]), path)
    with pytest.raises(InputError, match=r"^sliced\.onnx: batch: output 'y' has no image axis"):
        export(path, tmp_path / "out.onnx", batch="dynamic")
    onnx.save(rows_of([helper.make_node("Reshape", ["x", "s"], ["y"])], {"s": np.int64([2, 48])}, [2, 48]), path)
    with pytest.raises(InputError, match="no image axis"):
        set_batch(onnx.load(path), 3)
    assert capfd.readouterr() == ("", "")


def test_an_attention_pool_of_one_image_is_opened_by_trying_its_axes():
    """At a batch of 1 the query [1, 1, 8] may hold the batch at two axes; torch's class, written out for one query."""
    torch.manual_seed(0)

    class Pool(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

        def forward(self, x):
            x = x.transpose(0, 1)
            return self.attention(x.mean(0, keepdim=True), x, x, need_weights=False)[0].squeeze(0)

    module = Pool().eval()
    opened = set_batch(exported_tokens(module, 1, "ts"), "dynamic")
    with torch.no_grad():
        expected = module(torch.from_numpy(tokens(3))).numpy()
    assert np.abs(run(opened, tokens(3)) - expected).max() <= 1e-6


@pytest.mark.parametrize("current", [1, 2])
def test_a_resize_by_sizes_and_a_strided_gather_follow_the_batch(current):
    """Both hold the batch in constants: sizes [N, 2, 4, 4], and indices of every image in the flat values."""
    picked = (np.arange(current)[:, None] * 32 + np.array([0, 5, 31])[None]).astype(np.int64)
    nodes = [
        helper.make_node("Resize", ["x", "", "", "sizes"], ["r"], mode="nearest"),
        helper.make_node("Reshape", ["r", "flat"], ["f"]),
        helper.make_node("Gather", ["f", "picked"], ["y"], axis=0),
    ]
    weights = {"sizes": np.int64([current, 2, 4, 4]), "flat": np.int64([-1]), "picked": picked}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [current, 2, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [current, 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.random.default_rng(0).standard_normal((5, 2, 2, 2)).astype(np.float32)
    expected = x.repeat(2, 2).repeat(2, 3).reshape(5, 32)[:, [0, 5, 31]]
    assert np.array_equal(run(set_batch(model, "dynamic"), x), expected)
    assert np.array_equal(run(set_batch(model, 5), x), expected)
