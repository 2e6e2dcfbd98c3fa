"""The matrix and the pairs of many people, whole and some rows at a time."""

import io

import numpy as np
import pytest

from rtool.serving.gallery.files import similarities
from rtool.serving.gallery.files.similarities import high_pairs, write_matrix
from rtool.serving.gallery.people import similarity


def people(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    vectors[count // 2 : count // 2 + 6] = vectors[0]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_file_has_the_bytes_that_numpy_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(similarity, "_TILE", 8)
    vectors = people(30)
    write_matrix(vectors, tmp_path / "matrix.npy")
    buffer = io.BytesIO()
    np.save(buffer, similarity.similarity_of_all(vectors))
    assert (tmp_path / "matrix.npy").read_bytes() == buffer.getvalue()


@pytest.mark.parametrize("of_each", [3, 50])
def test_pairs_of_many_people_are_the_most_similar_of_each(of_each: int, monkeypatch):
    vectors = people(40)
    cosines = similarity.similarity_of_all(vectors)
    every = high_pairs(vectors, 0.3)
    above = {(a, b) for a, b in np.argwhere(np.triu(cosines > np.float32(0.3), 1)).tolist()}
    assert ({(a, b) for a, b, _ in every.pairs}, every.count, every.of_each) == (above, len(above), None)

    monkeypatch.setattr(similarity, "_TILE", 8)
    monkeypatch.setattr(similarities, "MOST_WHOLE", 39)
    monkeypatch.setattr(similarities, "_OF_EACH", of_each)
    some = high_pairs(vectors, 0.3)
    near = np.argsort(-np.where(np.eye(40), -np.inf, similarity.similarity_of_all(vectors)), axis=1, kind="stable")
    expected = {(a, b) for a, b in above if a in near[b, :of_each] or b in near[a, :of_each]}
    assert {(a, b) for a, b, _ in some.pairs} == expected
    assert (len(some.pairs), some.count, some.of_each) == (len(expected), len(above), of_each)
    assert [value for *_, value in some.pairs] == sorted((value for *_, value in some.pairs), reverse=True)
    assert (len(expected) < len(above)) == (of_each == 3)
