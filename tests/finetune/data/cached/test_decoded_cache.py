"""`data.cache`: the same pixels without decoding, made again where the source or the files have changed."""

import io
import os
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from rtool.converters.records.preprocessing import Preprocessing
from rtool.errors import DataError, InputError
from rtool.finetune.data import decoding
from rtool.finetune.data.cached.decoded_cache import DecodedCache
from rtool.finetune.data.decoding import read_pixels
from rtool.finetune.data.formats.sources import open_dataset

FORM = Preprocessing(16, 12)


def encoded(seed, quality=95):
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_pairs(path, first=0, count=6):
    path.write_bytes(
        pickle.dumps(([encoded(first + n) for n in range(count)], [True, False] * (count // 4) + [True]), 2)
    )
    return path


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path / "lfw.bin")


def cached(source, folder, form=FORM):
    cache = DecodedCache(folder, form)
    return cache.of(open_dataset(source), str(source)), cache.notes


def test_a_hit_gives_identical_bytes_and_decodes_nothing(pairs, tmp_path, monkeypatch):
    plain = read_pixels(open_dataset(pairs), FORM.resize).values
    made, notes = cached(pairs, tmp_path / "kept")
    assert "6 images decoded into" in notes[-1]
    monkeypatch.setattr(decoding, "decode_plain_jpeg", lambda _: None)
    monkeypatch.setattr("rtool.finetune.data.image_files.decode_image", None)
    again, notes = cached(pairs, tmp_path / "kept")
    assert "6 decoded images read from" in notes[-1]
    for dataset in (made, again, pickle.loads(pickle.dumps(again))):
        assert (read_pixels(dataset, FORM.resize).values == plain).all()
    (pixels,) = (tmp_path / "kept").glob("lfw.bin-*/pixels.npy")
    assert np.load(pixels, mmap_mode="r").dtype == np.uint8
    assert (np.load(pixels) == plain).all()


def test_grey_images_and_other_sizes_have_files_of_their_own(pairs, tmp_path):
    grey = Preprocessing(8, 8, mean=(127.5,), std=(127.5,), channel_order="grey")
    cached(pairs, tmp_path / "kept")
    dataset, notes = cached(pairs, tmp_path / "kept", grey)
    assert "decoded into" in notes[-1]
    assert (read_pixels(dataset, grey.resize).values == read_pixels(open_dataset(pairs), grey.resize).values).all()


def test_another_source_under_the_same_name_is_decoded_again(pairs, tmp_path):
    cached(pairs, tmp_path / "kept")
    state = pairs.stat()
    write_pairs(pairs, first=50)
    os.utime(pairs, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    dataset, notes = cached(pairs, tmp_path / "kept")
    assert "decoded again, because its source has changed" in notes[0]
    assert (read_pixels(dataset, FORM.resize).values == read_pixels(open_dataset(pairs), FORM.resize).values).all()


def test_a_file_that_was_only_touched_is_not_decoded_again(pairs, tmp_path):
    cached(pairs, tmp_path / "kept")
    os.utime(pairs)
    assert "read from" in cached(pairs, tmp_path / "kept")[1][-1]


def test_image_folders_are_known_by_their_files(tmp_path):
    for person in "ab":
        (tmp_path / "faces" / person).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "faces" / person / f"{number}.jpg").write_bytes(encoded(ord(person) + number))
    cached(tmp_path / "faces", tmp_path / "kept")
    assert "read from" in cached(tmp_path / "faces", tmp_path / "kept")[1][-1]
    (tmp_path / "faces" / "a" / "0.jpg").write_bytes(encoded(7, quality=80))
    dataset, notes = cached(tmp_path / "faces", tmp_path / "kept")
    assert "decoded again" in notes[0]
    plain = read_pixels(open_dataset(tmp_path / "faces"), FORM.resize).values
    assert (read_pixels(dataset, FORM.resize).values == plain).all()


@pytest.mark.parametrize("damage", ["index", "pixels", "checksums", "gone", "shorter"])
def test_damaged_files_are_made_again(pairs, tmp_path, damage):
    cached(pairs, tmp_path / "kept")
    (folder,) = (tmp_path / "kept").glob("lfw.bin-*[!k]")
    if damage == "index":
        (folder / "index.json").write_text('{"sha256": [')
    elif damage == "gone":
        (folder / "pixels.npy").unlink()
    elif damage == "shorter":
        (folder / "pixels.npy").write_bytes((folder / "pixels.npy").read_bytes()[:-100])
    else:
        (folder / f"{damage}.npy").write_bytes(b"nothing")
    dataset, notes = cached(pairs, tmp_path / "kept")
    assert "decoded again, because its files are damaged" in notes[0]
    plain = read_pixels(open_dataset(pairs), FORM.resize).values
    assert (read_pixels(dataset, FORM.resize).values == plain).all()


def test_a_changed_pixel_is_noticed(pairs, tmp_path):
    cached(pairs, tmp_path / "kept")
    (path,) = (tmp_path / "kept").glob("lfw.bin-*/pixels.npy")
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)
    dataset, _ = cached(pairs, tmp_path / "kept")
    with pytest.raises(DataError, match=r"data\.cache: image 5 in .* is damaged; delete"):
        read_pixels(dataset, FORM.resize)


def test_unreadable_images_stay_unreadable(tmp_path):
    for person in "ab":
        (tmp_path / "faces" / person).mkdir(parents=True)
        for number in range(60):
            (tmp_path / "faces" / person / f"{number}.jpg").write_bytes(encoded(number))
    (tmp_path / "faces" / "a" / "7.jpg").write_bytes(b"\xff\xd8 damaged")
    for _ in range(2):
        dataset, _ = cached(tmp_path / "faces", tmp_path / "kept")
        read = read_pixels(dataset, FORM.resize)
        assert read.unreadable == ("a/7.jpg",)
        assert len(read.values) == 119


def test_drawn_pictures_are_not_kept(tmp_path):
    drawn = "synthetic-faces:identities=4,images=2,size=16x16"
    dataset, notes = cached(drawn, tmp_path / "kept")
    assert "is not kept in data.cache" in notes[0]
    assert not (tmp_path / "kept").exists()
    assert len(dataset) == 8


def test_a_folder_that_cannot_be_written_is_named(pairs, tmp_path):
    (tmp_path / "kept").write_text("a file")
    with pytest.raises(InputError, match=r"data\.cache: .*kept cannot be made"):
        cached(pairs, tmp_path / "kept")


def test_nothing_is_left_of_a_cache_that_could_not_be_made(pairs, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "open_memmap", full)
    with pytest.raises(InputError, match="No space left"):
        cached(pairs, tmp_path / "kept")
    assert [path.suffix for path in (tmp_path / "kept").iterdir()] == [".lock"]
    shutil.rmtree(tmp_path / "kept")
