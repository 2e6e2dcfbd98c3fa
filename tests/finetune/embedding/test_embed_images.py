"""What a cache knows is not computed again, and what it does not know is."""

import numpy as np
import pytest

from rtool.errors import GateError
from rtool.finetune.embedding.cache import EmbeddingCache
from rtool.finetune.embedding.embed_images import EmbedImages

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 4, 2, 3), dtype=np.uint8)
DIGESTS = np.random.default_rng(1).integers(0, 256, (10, 32), dtype=np.uint8)


class Model:
    def __init__(self):
        self.seen = 0

    def __call__(self, pixels):
        self.seen += len(pixels)
        return pixels.reshape(len(pixels), -1)[:, :5].astype(np.float32)


def expected(flip):
    plain = PIXELS.reshape(10, -1)[:, :5].astype(np.float32)
    return plain + PIXELS[:, :, ::-1].reshape(10, -1)[:, :5].astype(np.float32) if flip else plain


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path, "k" * 64)


@pytest.mark.parametrize("flip", [False, True])
def test_the_second_time_the_model_is_not_called(flip, cache, tmp_path):
    model = Model()
    with EmbedImages(model, flip=flip, batch=4, cache=cache) as embed:
        np.testing.assert_array_equal(embed(PIXELS, DIGESTS), expected(flip))
    seen = model.seen
    with EmbedImages(model, flip=flip, batch=3, cache=EmbeddingCache(tmp_path, "k" * 64)) as embed:
        np.testing.assert_array_equal(embed(PIXELS[::-1], DIGESTS[::-1]), expected(flip)[::-1])
    assert model.seen == seen == 10 * (1 + flip)
    assert embed.computed == 0


def test_only_what_is_new_is_computed(cache):
    model = Model()
    with EmbedImages(model, flip=False, batch=4, cache=cache) as embed:
        embed(PIXELS[:3], DIGESTS[:3])
    with EmbedImages(model, flip=False, batch=4, cache=cache) as embed:
        np.testing.assert_array_equal(embed(PIXELS, DIGESTS), expected(False))
    assert (model.seen, embed.computed) == (10, 7)


def test_what_was_computed_before_an_error_is_kept(cache, tmp_path):
    def stops():
        with EmbedImages(Model(), flip=False, batch=4, cache=cache) as embed:
            embed(PIXELS[:6], DIGESTS[:6])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stops()
    assert EmbeddingCache(tmp_path, "k" * 64).lookup(DIGESTS)[0].tolist() == [True] * 6 + [False] * 4


def test_the_cache_is_written_as_time_passes(cache, tmp_path):
    now = iter(range(0, 1000, 8))
    with EmbedImages(Model(), flip=False, batch=1, cache=cache, clock=lambda: next(now)) as embed:
        kept = []
        for index in range(5):
            embed(PIXELS[index : index + 1], DIGESTS[index : index + 1])
            kept.append(len(EmbeddingCache(tmp_path, "k" * 64)))
    assert kept == [0, 0, 3, 3, 3]
    assert len(EmbeddingCache(tmp_path, "k" * 64)) == 5


def test_embeddings_that_are_not_finite_are_refused_and_not_kept(cache, tmp_path):
    def embed(pixels):
        return np.full((len(pixels), 5), np.nan, np.float32)

    with EmbedImages(embed, flip=False, batch=4, cache=cache) as embed_known, pytest.raises(GateError, match="NaN"):
        embed_known(PIXELS, DIGESTS)
    assert len(EmbeddingCache(tmp_path, "k" * 64)) == 0
