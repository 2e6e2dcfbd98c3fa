"""The embedding cache: content decides, damage is mended, processes share it."""

import multiprocessing
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rtool.converters.records.preprocessing import IMAGENET
from rtool.errors import InputError
from rtool.finetune.embedding.cache import EmbeddingCache, cache_key

KEY = "a" * 64


def digests(*seeds):
    return np.stack([np.random.default_rng(seed).integers(0, 256, 32, dtype=np.uint8) for seed in seeds])


def rows(*seeds):
    return np.stack([np.random.default_rng(seed).normal(size=5).astype(np.float32) for seed in seeds])


def test_every_row_is_found_by_its_digest_whatever_the_order(tmp_path):
    seeds = list(range(300))
    EmbeddingCache(tmp_path, KEY).add(digests(*seeds), rows(*seeds))
    asked = [17, 1000, 0, 299, 17, 1001]
    found, embeddings = EmbeddingCache(tmp_path, KEY).lookup(digests(*asked))
    assert found.tolist() == [True, False, True, True, True, False]
    np.testing.assert_array_equal(embeddings[found], rows(17, 0, 299, 17))
    assert not embeddings[~found].any()


def test_digests_that_differ_in_zeros_and_high_bytes_are_told_apart(tmp_path):
    odd = np.zeros((4, 32), np.uint8)
    odd[1, 0], odd[2, 31], odd[3] = 255, 1, 255
    cache = EmbeddingCache(tmp_path, KEY)
    cache.add(odd[[3, 0]], rows(3, 0))
    cache.add(odd[[2, 1]], rows(2, 1))
    found, embeddings = EmbeddingCache(tmp_path, KEY).lookup(odd)
    assert found.all()
    np.testing.assert_array_equal(embeddings, rows(0, 1, 2, 3))


def test_the_file_is_plain_arrays_sorted_by_digest(tmp_path):
    cache = EmbeddingCache(tmp_path, KEY)
    cache.add(digests(5, 3, 4), rows(5, 3, 4))
    stored = np.load(tmp_path / f"embeddings-{KEY}.npz", allow_pickle=False)
    assert {name: (array.dtype, array.shape) for name, array in stored.items()} == {
        "digest": (np.uint8, (3, 32)),
        "embedding": (np.float32, (3, 5)),
    }
    assert [bytes(row) for row in stored["digest"]] == sorted(bytes(row) for row in digests(3, 4, 5))


def test_two_that_add_in_turns_lose_nothing(tmp_path):
    first, second = EmbeddingCache(tmp_path, KEY), EmbeddingCache(tmp_path, KEY)
    first.add(digests(1), rows(1))
    second.add(digests(2), rows(2))
    first.add(digests(3), rows(3))
    found, _ = EmbeddingCache(tmp_path, KEY).lookup(digests(1, 2, 3))
    assert found.all()


def test_what_is_known_stays_as_it_is(tmp_path):
    cache = EmbeddingCache(tmp_path, KEY)
    cache.add(digests(1), rows(1))
    before = cache.path.read_bytes()
    cache.add(digests(1), rows(2))
    assert cache.path.read_bytes() == before
    np.testing.assert_array_equal(cache.lookup(digests(1))[1], rows(1))


def _add_some(folder: Path, start: int) -> None:
    for seed in range(start, start + 10):
        EmbeddingCache(folder, KEY).add(digests(seed), rows(seed))


def test_processes_that_add_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_add_some, args=(tmp_path, start)) for start in (0, 10, 20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found, embeddings = EmbeddingCache(tmp_path, KEY).lookup(digests(*range(30)))
    assert found.all()
    np.testing.assert_array_equal(embeddings, rows(*range(30)))
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(rows(2)[0].tobytes()) + 3] ^= 1
    path.write_bytes(content)


def _not_finite(path: Path) -> None:
    np.savez(path, digest=digests(1), embedding=np.full((1, 5), np.nan, np.float32))


def _unsorted(path: Path) -> None:
    order = sorted((1, 2), key=lambda seed: bytes(digests(seed)[0]), reverse=True)
    np.savez(path, digest=digests(*order), embedding=rows(*order))


def _pickled(path: Path) -> None:
    np.savez(path, digest=digests(1), embedding=np.array([[{}]], dtype=object))


def _other_arrays(path: Path) -> None:
    np.savez(path, embedding=rows(1))


def _text(path: Path) -> None:
    path.write_text("no archive")


def _packed_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("digest.npy", bytes(10**7))


@pytest.mark.parametrize(
    "damage", [_cut_short, _one_bit, _not_finite, _unsorted, _pickled, _other_arrays, _text, _packed_bomb]
)
def test_a_damaged_file_is_made_anew_with_a_note(damage, tmp_path):
    EmbeddingCache(tmp_path, KEY).add(digests(1, 2), rows(1, 2))
    damage(tmp_path / f"embeddings-{KEY}.npz")
    notes = []
    cache = EmbeddingCache(tmp_path, KEY, report=notes.append)
    assert len(cache) == 0
    assert [("damaged" in note, KEY in note) for note in notes] == [(True, True)]
    cache.add(digests(3), rows(3))
    np.testing.assert_array_equal(EmbeddingCache(tmp_path, KEY).lookup(digests(3))[1], rows(3))


def test_embeddings_that_are_not_finite_are_not_kept(tmp_path):
    with pytest.raises(InputError, match="NaN"):
        EmbeddingCache(tmp_path, KEY).add(digests(1), np.full((1, 5), np.inf, np.float32))
    assert len(EmbeddingCache(tmp_path, KEY)) == 0


def test_embeddings_of_another_width_are_refused(tmp_path):
    cache = EmbeddingCache(tmp_path, KEY)
    cache.add(digests(1), rows(1))
    with pytest.raises(InputError, match="5 numbers, got 3"):
        cache.add(digests(2), np.zeros((1, 3), np.float32))


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--cache"):
        EmbeddingCache(tmp_path / "file" / "cache", KEY)


def test_the_key_follows_all_that_embeddings_depend_on():
    keys = {
        cache_key("m", IMAGENET, flip=True),
        cache_key("n", IMAGENET, flip=True),
        cache_key("m", replace(IMAGENET, width=64), flip=True),
        cache_key("m", IMAGENET, flip=False),
        cache_key("m", IMAGENET, flip=True, output=1),
    }
    assert len(keys) == 5
    assert cache_key("m", replace(IMAGENET), flip=True, output=0) == cache_key("m", IMAGENET, flip=True)
    assert all(len(key) == 64 for key in keys)
