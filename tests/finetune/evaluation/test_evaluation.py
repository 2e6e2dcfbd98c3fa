"""Evaluation of any embedding function and of any model reference, fixed-batch ONNX files included."""

import csv

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.converters.records.preprocessing import Preprocessing
from rtool.errors import ConfigError, GateError
from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.evaluation.evaluation import evaluate, evaluate_embeddings

PEOPLE = "synthetic-people:identities=6,images=8,seed=2,size=16x8"
FACES = "synthetic-faces:identities=6,images=6,seed=2,size=16x16"


def linear_model(path, batch, size):
    """Flatten and multiply, as a model with its batch fixed or free."""
    height, width = size
    weight = np.random.default_rng(0).normal(size=(3 * height * width, 8)).astype("f4")
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, height, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return weight


@pytest.mark.parametrize("batch", ["n", 16])
def test_an_onnx_file_with_free_or_fixed_batch_gives_what_its_formula_gives(tmp_path, batch):
    weight = linear_model(tmp_path / "m.onnx", batch, (16, 8))
    preprocessing = Preprocessing(16, 8)

    def by_hand(pixels):
        return preprocessing.normalise(pixels).reshape(len(pixels), -1) @ weight

    expected = evaluate_embeddings(by_hand, open_dataset(PEOPLE), resize=preprocessing.resize)
    assert evaluate(tmp_path / "m.onnx", PEOPLE) == expected
    assert expected.protocol == "retrieval"


def test_data_without_cameras_are_verified(tmp_path):
    linear_model(tmp_path / "m.onnx", "n", (16, 16))
    result = evaluate(tmp_path / "m.onnx", FACES)
    assert result.protocol == "verification"
    assert result.pairs % 20 == 0


def test_flipping_adds_the_mirror_image():
    calls = []

    def embed(pixels):
        calls.append(pixels)
        return pixels.reshape(len(pixels), -1).astype("f4")

    evaluate_embeddings(embed, open_dataset(FACES), resize=np.asarray, batch=100)
    assert (calls[1] == calls[0][:, :, ::-1]).all()
    calls.clear()
    evaluate_embeddings(embed, open_dataset(FACES), resize=np.asarray, batch=100, flip=False)
    assert len(calls) == 1


def test_what_a_model_makes_of_nothing_is_refused_at_once(tmp_path):
    calls = []

    def embed(pixels):
        calls.append(len(pixels))
        return np.full((len(pixels), 4), np.nan, dtype="f4")

    with pytest.raises(GateError, match="8 of 8 embeddings hold NaN"):
        evaluate_embeddings(embed, open_dataset(FACES), resize=np.asarray, batch=8, flip=False)
    assert calls == [8]


def test_the_roc_is_written_over_the_pairs_of_tar(tmp_path):
    linear_model(tmp_path / "m.onnx", "n", (16, 16))
    result = evaluate(tmp_path / "m.onnx", FACES, roc=tmp_path / "roc.csv")
    with (tmp_path / "roc.csv").open() as file:
        points = [(float(row["far"]), float(row["tar"])) for row in csv.DictReader(file)]
    assert {round(far, 6): tar for far, tar in points}[0.01] == pytest.approx(result.tar_at_far_1e2)
    linear_model(tmp_path / "p.onnx", "n", (16, 8))
    with pytest.raises(ConfigError, match="a ROC is of a verification"):
        evaluate(tmp_path / "p.onnx", PEOPLE, roc=tmp_path / "other.csv")


def test_re_ranking_is_for_retrieval(tmp_path):
    linear_model(tmp_path / "p.onnx", "n", (16, 8))
    assert evaluate(tmp_path / "p.onnx", PEOPLE, rerank=True).reranked
    linear_model(tmp_path / "m.onnx", "n", (16, 16))
    with pytest.raises(ConfigError, match="ranks no gallery; leave it out"):
        evaluate(tmp_path / "m.onnx", FACES, rerank=True)


def test_pairs_on_which_two_models_differ_most_are_those_they_rank_apart():
    from rtool.finetune.data.dataset import UNKNOWN_CAMERA, ArrayImages, Dataset
    from rtool.finetune.evaluation.pairs.verification import compare_pairs
    from rtool.finetune.evaluation.report.examples import contested_pairs

    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(12), 4)
    centres = rng.normal(size=(12, 16))
    one = (centres[people] + 0.5 * rng.normal(size=(48, 16))).astype(np.float32)
    other = one.copy()
    other[5] = centres[9]  # the other model takes image 5, of person 1, for person 9
    images = ArrayImages(np.zeros((48, 4, 4, 3), np.uint8))
    dataset = Dataset("faces", images, people, np.full(48, UNKNOWN_CAMERA), tuple(map(str, range(48))))
    pairs = np.array([(n, (n + 1 + (n % 3 == 0)) % 48, 0) for n in range(48)])
    pairs[:, 2] = people[pairs[:, 0]] == people[pairs[:, 1]]
    measured = [compare_pairs(rows, people, pairs) for rows in (one, 10 * other)]  # a length changes nothing
    shown = contested_pairs(dataset, *measured)
    assert len(shown) == 8
    assert all("5" in (pair.first.name, pair.second.name) for pair in shown)
    assert all(pair.other is not None and pair.other != pair.score for pair in shown)
