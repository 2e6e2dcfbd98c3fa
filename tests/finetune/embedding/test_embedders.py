"""Whatever runs a model, pixels go in and embeddings come out."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from rtool.converters import Preprocessing
from rtool.converters.records.record import TensorSpec
from rtool.converters.runtime.triton import TritonRunner
from rtool.errors import InputError
from rtool.finetune.embedding.embedders import open_embedder


@dataclass
class Sums:
    """A served model that adds up what it is given."""

    inputs: tuple[TensorSpec, ...]
    name: str = "served"
    batch: int | None = None
    outputs: tuple[TensorSpec, ...] = ()

    def run(self, *arrays):
        return (arrays[0].reshape(len(arrays[0]), -1).astype(np.float64).sum(axis=1, keepdims=True),)


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (TensorSpec("x", "float32", ("N", 3, 8, 4)), (8, 4)),
        (TensorSpec("x", "uint8", (16, 8, 4, 3)), (8, 4)),  # the preprocessing is in the graph
        (TensorSpec("x", "float32", ("N", 6, 3, 3)), (6, 3)),
    ],
)
def test_the_image_size_is_read_from_either_layout(spec, size):
    preprocessing = open_embedder(Sums((spec,))).preprocessing
    assert (preprocessing.height, preprocessing.width) == size


def test_a_model_with_uint8_input_gets_the_pixels_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 4, 3), dtype=np.uint8)
    embedder = open_embedder(Sums((TensorSpec("x", "uint8", ("N", 8, 4, 3)),)))
    np.testing.assert_allclose(embedder.embed(pixels)[:, 0], pixels.astype(float).sum(axis=(1, 2, 3)))


def test_a_model_with_float_input_gets_them_normalised():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 4, 3), dtype=np.uint8)
    embedder = open_embedder(Sums((TensorSpec("x", "float32", ("N", 3, 8, 4)),)), preprocessing="imagenet")
    expected = Preprocessing(8, 4).normalise(pixels).astype(float).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(embedder.embed(pixels)[:, 0], expected, rtol=1e-5)


def test_a_model_without_a_size_asks_for_one():
    with pytest.raises(InputError, match="size"):
        open_embedder(Sums((TensorSpec("x", "float32", ("N", 3, "H", "W")),)))


class Server:
    """What `TritonRunner` reads of an open model."""

    url, model, version, batch = "127.0.0.1:1", "m", None, None
    inputs = (TensorSpec("x", "float32", (None, 3, 112, 112)),)
    outputs = ()

    def __init__(self, parameters):
        self.parameters = parameters


def test_a_served_model_is_prepared_as_its_configuration_states():
    stated = Preprocessing(112, 112, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "bgr", "bicubic")
    runner = TritonRunner(Server({"rtool.preprocessing": json.dumps(stated.to_dict())}))
    decision = open_embedder(runner).decision
    assert (decision.preprocessing, decision.kind) == (stated, "stated")
    assert decision.reason == "stated by the server's configuration"


def test_a_served_model_that_states_nothing_is_not_guessed():
    with pytest.raises(InputError, match=r"a server does not show the graph.*--preprocessing"):
        open_embedder(TritonRunner(Server({})))
    assert open_embedder(TritonRunner(Server({})), preprocessing="arcface").decision.kind == "given"
