"""`embed`: rows in the order of the images, equal to the formula; what is corrupt is named; nothing computed twice."""

import json
import sys
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import rtool
from rtool.converters.records.preprocessing import Preprocessing
from rtool.converters.runtime.runners import OnnxRunner
from rtool.errors import DataError, GateError, InputError, PlatformError

SIZE = (12, 6)
WEIGHT = np.random.default_rng(0).normal(size=(3 * 12 * 6, 5)).astype("f4")
STATED = Preprocessing(*SIZE)


def linear_model(path, batch="N", weight=WEIGHT):
    """Flatten and multiply; states its preprocessing."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, *SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"rtool.preprocessing": json.dumps(STATED.to_dict())})
    onnx.save(model, path)
    return path


def write_images(folder, count=40, suffix="jpg"):
    """Noise of several sizes, spread over sub-folders; names in natural order are 0, 1, ..., 10."""
    draw = np.random.default_rng(1)
    for index in range(count):
        path = folder / f"{index // 7}" / f"{index}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (20 + index, 11, 3), dtype=np.uint8)).save(path)
    return folder


def by_hand(paths, flip=False):
    pixels = np.stack([STATED.resize(Image.open(path)) for path in paths])
    rows = STATED.normalise(pixels).reshape(len(pixels), -1).astype("f8") @ WEIGHT
    return rows + by_hand_mirrored(pixels) if flip else rows


def by_hand_mirrored(pixels):
    return STATED.normalise(pixels[:, :, ::-1]).reshape(len(pixels), -1).astype("f8") @ WEIGHT


@pytest.fixture
def model(tmp_path):
    return linear_model(tmp_path / "m.onnx")


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path / "images")


@pytest.fixture
def images_run(monkeypatch):
    given, lock = [], threading.Lock()
    original = OnnxRunner.run

    def counted(self, *arrays):
        with lock:
            given.append(len(arrays[0]))
        return original(self, *arrays)

    monkeypatch.setattr(OnnxRunner, "run", counted)
    return lambda: sum(given)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("batch", ["N", 4])
def test_rows_are_those_of_the_formula_in_the_order_of_the_names(flip, batch, folder, tmp_path):
    model = linear_model(tmp_path / "m.onnx", batch)
    result = rtool.embed(model, folder, tmp_path / "out.npz", batch=7, flip=flip)
    expected = [f"{index // 7}/{index}.jpg" for index in range(40)]
    assert list(result.names) == expected
    np.testing.assert_allclose(
        result.embeddings, by_hand([folder / name for name in expected], flip), rtol=1e-4, atol=1e-3
    )
    stored = np.load(tmp_path / "out.npz")
    assert stored["names"].tolist() == expected
    np.testing.assert_array_equal(stored["embeddings"], result.embeddings)
    stated = json.loads(str(stored["metadata"]))
    assert (stated["flip"], stated["preprocessing"]["height"], stated["unreadable"]) == (flip, 12, [])


def test_npy_holds_the_rows_and_its_names_beside_it(model, folder, tmp_path):
    result = rtool.embed(model, folder, tmp_path / "out.npy", limit=9)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), result.embeddings)
    assert json.loads((tmp_path / "out.npy.json").read_text())["names"] == list(result.names)
    assert len(result.names) == 9


def test_parquet_without_pyarrow_is_refused_before_any_work(model, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pyarrow" else 1 / 0)
    with pytest.raises(PlatformError, match=r"out\.parquet: .*pip install pyarrow"):
        rtool.embed(tmp_path / "absent.onnx", folder, tmp_path / "out.parquet")


def test_parquet_holds_names_and_rows(model, folder, tmp_path):
    from pyarrow import parquet

    result = rtool.embed(model, folder, tmp_path / "out.parquet", limit=9)
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table["name"].to_pylist() == list(result.names)
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), np.float32), result.embeddings)


def test_corrupt_images_are_named_and_have_no_row(model, folder, tmp_path):
    (folder / "0" / "3.jpg").write_bytes(b"no image")
    whole = (folder / "1" / "8.jpg").read_bytes()
    (folder / "1" / "8.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "2" / "15.jpg").write_bytes(b"")
    notes = []
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        result = rtool.embed(model, folder, cache=cache, report=notes.append)
        assert result.unreadable == ("0/3.jpg", "1/8.jpg", "2/15.jpg")
        readable = [f"{index // 7}/{index}.jpg" for index in range(40) if index not in (3, 8, 15)]
        assert list(result.names) == readable
        expected = by_hand([folder / name for name in readable])
        np.testing.assert_allclose(result.embeddings, expected, rtol=1e-4, atol=1e-3)
    assert "3 of 40 images cannot be read: 0/3.jpg, 1/8.jpg, 2/15.jpg" in notes[0]


def test_a_folder_of_which_nothing_can_be_read_is_refused(model, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of 1 images can be read, such as a\.jpg"):
        rtool.embed(model, tmp_path / "images")


def test_a_second_call_runs_no_model_and_writes_identical_bytes(folder, tmp_path, images_run):
    model = linear_model(tmp_path / "m.onnx", 8)  # an open batch is proved by running when the file is opened
    first = rtool.embed(model, folder, tmp_path / "a.npz", cache=tmp_path / "cache")
    before = images_run()
    second = rtool.embed(model, folder, tmp_path / "b.npz", cache=tmp_path / "cache")
    assert images_run() == before
    assert (first.computed, second.computed) == (40, 0)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_what_was_stopped_continues_where_it_was(model, folder, tmp_path, images_run):
    def stop(done, total):
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rtool.embed(model, folder, tmp_path / "out.npz", cache=tmp_path / "cache", batch=4, progress=stop)
    assert not (tmp_path / "out.npz").exists()
    result = rtool.embed(model, folder, tmp_path / "out.npz", cache=tmp_path / "cache", batch=4)
    assert result.computed <= 20
    np.testing.assert_allclose(
        result.embeddings, by_hand([folder / name for name in result.names]), rtol=1e-4, atol=1e-3
    )


def test_the_cache_is_that_of_evaluate(folder, tmp_path, images_run):
    model = linear_model(tmp_path / "m.onnx", 8)
    rtool.evaluate(model, folder, cache=tmp_path / "cache", protocol="verification")
    before = images_run()
    assert rtool.embed(model, folder, cache=tmp_path / "cache", flip=True).computed == 0
    assert images_run() == before


def test_progress_is_told_after_each_batch_and_ends_at_all(model, folder):
    told = []
    rtool.embed(model, folder, batch=16, progress=lambda *done: told.append(done))
    assert told == [(16, 40), (32, 40), (40, 40)]


@pytest.mark.parametrize("kind", ["flat", "single file", "manifest", "one person", "generator", "market"])
def test_images_come_from_any_source(kind, model, tmp_path):
    folder = tmp_path / "source"
    names = ["a.png", "b.png", "c.png"]
    if kind == "market":
        names = ["bounding_box_test/0001_c1s1_000001_00.png", "query/0001_c2s1_000001_00.png"]
    if kind == "one person":
        names = ["anna/1.png", "anna/2.png"]
    draw = np.random.default_rng(2)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(folder / name)
    spec = folder
    if kind == "single file":
        names, spec = ["b.png"], folder / "b.png"
    if kind == "manifest":
        names, spec = ["c.png", "a.png"], folder / "list.csv"
        spec.write_text("path,track,camera,frame,confidence\nc.png,t1,0,3,.9\na.png,t2,0,4,.8\nc.png,t1,0,3,.9\n")
    if kind == "generator":
        result = rtool.embed(model, "synthetic-people:identities=3,images=2,seed=1,size=12x8")
        assert result.embeddings.shape == (6, 5)
        return
    result = rtool.embed(model, spec)
    assert list(result.names) == names
    np.testing.assert_allclose(result.embeddings, by_hand([folder / name for name in names]), rtol=1e-4, atol=1e-3)


def test_images_that_give_nan_are_named(tmp_path):
    broken = WEIGHT.copy()
    broken[0] = 3e38  # overflows where the first pixel is bright
    linear_model(tmp_path / "m.onnx", weight=broken)
    for name, value in (("dark.png", 124), ("bright.png", 255)):
        Image.fromarray(np.full((*SIZE, 3), value, np.uint8)).save(tmp_path / name)
    with pytest.raises(GateError, match=r"NaN or infinity, of bright\.png;"):
        rtool.embed(tmp_path / "m.onnx", tmp_path, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("out.txt", r"ending in \.npz, \.npy, \.parquet"),
        ("absent/out.npz", "does not exist"),
        ("there.npz", "--overwrite"),
        ("named.npy", r"named\.npy\.json: already exists"),
        ("m.onnx.npz", "is the source itself"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_model_is_opened(path, message, folder, tmp_path):
    (tmp_path / "there.npz").touch()
    (tmp_path / "named.npy.json").touch()
    model = tmp_path / "m.onnx.npz" if path == "m.onnx.npz" else tmp_path / "absent.onnx"
    if path == "m.onnx.npz":
        model.touch()
    with pytest.raises(InputError, match=message):
        rtool.embed(model, folder, tmp_path / path, overwrite=path == "m.onnx.npz")


def test_an_empty_folder_says_what_is_in_it(model, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"holds no images .*\.txt 1"):
        rtool.embed(model, tmp_path / "empty")


def test_calls_overlap_on_more_threads_than_there_are_cores(model, folder, monkeypatch):
    monkeypatch.setattr("rtool.finetune.embedding.embedders.available_cores", lambda: 2)
    monkeypatch.setattr("rtool.finetune.embedding.image_embeddings.available_cores", lambda: 2)
    together = threading.Barrier(3, timeout=20)
    original = OnnxRunner.run

    def wait_for_two_others(self, *arrays):
        if not getattr(self, "proved", False):  # the model's open batch is proved by one call at a time
            return original(self, *arrays)
        together.wait()
        return original(self, *arrays)

    embedder = rtool.finetune.embedding.embedders.open_embedder(model, threads=1, batch=4)
    monkeypatch.setattr(OnnxRunner, "run", wait_for_two_others)
    monkeypatch.setattr(OnnxRunner, "proved", True, raising=False)
    assert embedder.lanes == 3  # one more than there are cores
    assert len(rtool.embed(embedder, folder, limit=36).names) == 36  # 9 batches, 3 at a time
