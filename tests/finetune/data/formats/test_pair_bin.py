"""Verification sets in .bin: every way they are pickled, what is wrong with them, and pickles that mean harm."""

import io
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rtool.errors import DataError
from rtool.finetune.data.formats.pair_bin import open_pair_bin
from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.data.image_files import UnreadableImageError
from rtool.finetune.evaluation.evaluation import evaluate_embeddings


def jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(buffer, "JPEG")
    return buffer.getvalue()


def write(path: Path, content: object, protocol: int = 2) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return path


IMAGES = [jpeg(10 * i) for i in range(6)]
FLAGS = [True, False, True]
FORMS = {
    "bytes": (IMAGES, FLAGS),
    "arrays": ([np.frombuffer(image, np.uint8) for image in IMAGES], np.array(FLAGS)),
    "scalars": (tuple(IMAGES), [np.bool_(flag) for flag in FLAGS]),
    "numbers": (IMAGES, np.array([1, 0, 1], dtype=">i4")),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("form", FORMS)
def test_a_verification_set_has_its_pairs(tmp_path, protocol, form):
    dataset = open_pair_bin(write(tmp_path / "v.bin", FORMS[form], protocol))
    assert dataset.pairs.tolist() == [[0, 1, 1], [2, 3, 0], [4, 5, 1]]
    assert [dataset.images.read(index) for index in range(6)] == IMAGES
    assert np.asarray(dataset.images[5]).mean() == pytest.approx(50, abs=2)


def test_an_empty_image_is_unreadable_and_no_reason_to_refuse_the_set(tmp_path):
    dataset = open_pair_bin(write(tmp_path / "v.bin", ([b"", *IMAGES[1:]], FLAGS)))
    with pytest.raises(UnreadableImageError):
        dataset.images[0]


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments, state)

    def __reduce__(self):
        return self.reduced


OBJECTS = np.dtype([("a", "O"), ("b", "O")])
HOSTILE = {
    "pointers": Call(np.ndarray, (2,), np.dtype("O"), b"A" * 16),
    "pointers in a record": Call(np.ndarray, (1,), OBJECTS, b"A" * 16),
    "a scalar of pointers": Call(np._core.multiarray.scalar, np.dtype("O"), b"A" * 8),
    "a scalar of a record": Call(np._core.multiarray.scalar, OBJECTS, np.zeros(2, np.int64)),
    "outside of the buffer": Call(np.ndarray, (4,), np.dtype("u1"), b"A" * 8, 0, (100_000_000,)),
    "a huge shape": Call(np._core.multiarray._reconstruct, np.ndarray, (10**12,), b"b"),
    "objects": np.array([None, 1], dtype=object),
    "shape beyond its bytes": Call(np._core.numeric._frombuffer, b"A" * 8, np.dtype("u1"), (10**15,), "C"),
    "negative shape": Call(np._core.numeric._frombuffer, b"A" * 8, np.dtype("u1"), (-8,), "C"),
    "no shape": Call(np._core.numeric._frombuffer, b"A" * 8, np.dtype("u1"), "x", "C"),
    "another type": np.zeros(3, np.float32),
    "a changed function": Call(np.dtype, "u1", state={"name": "O"}),
}


@pytest.mark.parametrize("place", ["images", "flags"])
@pytest.mark.parametrize("name", HOSTILE)
def test_an_array_that_is_not_what_it_claims_is_refused(tmp_path, name, place):
    hostile = HOSTILE[name]
    content = ([hostile, hostile], [True]) if place == "images" else ([b"x"] * 4, hostile)
    with pytest.raises(DataError, match=r"h\.bin: "):
        open_pair_bin(write(tmp_path / "h.bin", content))


class Malicious:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('owned').touch()",))


def test_a_malicious_pickle_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("m.bin"), ([Malicious()], [True]), protocol=4)
    with pytest.raises(DataError, match=r"it asks for builtins\.exec"):
        open_dataset("m.bin")
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02Nr" + struct.pack("<I", 2**31) + b".",
        b"\x80\x02Np2147483647\n.",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
        b"cnumpy\nndarray\n((I1000000000000\nttR.",
        b"cnumpy\ndtype\n(S'qq'\ntR.",
        b"cnumpy\ndtype\n(dtR.",
        b"cnumpy\ndtype\n}S'x'\nNsb.",
        b"cnumpy\nndarray\n)\x81.",
        b"P1\n.",
    ],
    ids=["memo", "text memo", "bytes", "array", "dtype", "dtype of a dict", "attribute", "new object", "reference"],
)
def test_a_pickle_built_to_break_the_reader_is_refused(tmp_path, content):
    with pytest.raises(DataError, match=r"b\.bin: cannot be read as a verification set"):
        open_pair_bin(write(tmp_path / "b.bin", content))


LARGE = bytes(1 << 20)


def encoded_again(count: int) -> bytes:
    """A set in an old protocol whose images are one text, made bytes `count` times."""
    text = b"X" + struct.pack("<I", len(LARGE)) + LARGE + b"q\x01"
    again = b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R"
    return b"\x80\x02(" + text + b"0(" + count * again + b"l(" + count // 2 * b"\x88" + b"lt."


REPEATED = {
    "an array": ([np.frombuffer(LARGE, np.uint8)] * 4000, [True] * 2000),
    "bytes": ([LARGE] * 4000, [True] * 2000),
    "a text": encoded_again(4000),
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_small_file_that_names_a_large_image_thousands_of_times_is_refused_within_its_size(tmp_path, name):
    path = write(tmp_path / "r.bin", REPEATED[name])
    tracemalloc.start()
    with pytest.raises(DataError, match=r"r\.bin: .*(times its own size|more bytes than it holds)"):
        open_pair_bin(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * path.stat().st_size


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_an_image_in_many_pairs_is_held_once(tmp_path, kind):
    """Also where every pair has an array of its own over the same bytes."""
    raw = kind(LARGE)
    arrays = [Call(np._core.numeric._frombuffer, raw, np.dtype("u1"), (len(raw),), "C") for _ in range(200)]
    dataset = open_pair_bin(write(tmp_path / "v.bin", (arrays, [True] * 100), 5))
    assert dataset.images.read(0) == LARGE
    assert len({id(dataset.images.read(index)) for index in range(200)}) == 1


def test_memory_that_runs_out_while_images_are_read_is_lines(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("rtool.finetune.data.formats.pair_bin._raw_image", fail)
    with pytest.raises(DataError, match=r"v\.bin: .*exhaust memory"):
        open_pair_bin(write(tmp_path / "v.bin", FORMS["bytes"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"<html>", "cannot be read"),
        (pickle.dumps((IMAGES, FLAGS))[:500], "cannot be read"),
        ([1, 2, 3], r"expected a pair \(images, flags\), got list"),
        (([b"x"], [True]), "expected two images per flag, got 1 images and 1 flags"),
        ((5, 6), "expected a list of encoded images, got int"),
        ((IMAGES, 6), "expected a list of same-person flags, got int"),
        ((IMAGES, None), "expected a list of same-person flags, got nothing"),
        ((IMAGES, ["yes"] * 3), "flag 0: expected true or false, got str"),
        ((IMAGES, [1, 2, 0]), "flag 1: expected true or false, or 1 or 0, got 2"),
        ((IMAGES, np.array([1, 0, -1])), "flag 2: expected true or false, or 1 or 0, got -1"),
        (([None] * 6, FLAGS), "image 0: expected the bytes of an image file, got nothing"),
    ],
)
def test_what_is_no_verification_set_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=rf"x\.bin: .*{message}"):
        open_dataset(write(tmp_path / "x.bin", content))


def embed(pixels):
    return pixels.reshape(len(pixels), -1).astype("f4") + 1


def test_a_pair_that_lost_an_image_leaves_and_the_image_is_named(tmp_path):
    draw = np.random.default_rng(0)
    images = [jpeg(int(value)) for value in draw.integers(0, 250, 400)]
    flags = draw.random(200) < 0.5
    whole = write(tmp_path / "whole.bin", ([*images[:6], *images[8:]], [*flags[:3], *flags[4:]]))
    images[7] = b"broken"
    damaged = write(tmp_path / "damaged.bin", (images, flags))
    lines = []
    expected = evaluate_embeddings(embed, open_dataset(whole), resize=np.asarray)
    measured = evaluate_embeddings(embed, open_dataset(damaged), resize=np.asarray, report=lines.append)
    assert measured == expected
    assert measured.pairs == 199
    assert lines[0] == f"{damaged}: 1 unreadable images skipped: damaged.bin:7"
