"""The digest of a source is computed late, but over the bytes that were read."""

import copy
import hashlib
import os
import pickle
from pathlib import Path

import pytest

from rtool.converters.records.file_digest import FileDigest, OpenFile
from rtool.errors import InputError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights" * 1000)
    return path


def test_the_digest_is_that_of_the_opened_bytes_when_the_path_gets_another_file(file: Path):
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    digest = FileDigest(file, OpenFile(file))
    other = file.with_suffix(".new")
    other.write_bytes(b"other")
    other.replace(file)
    assert digest.value == expected


def test_copies_and_pickles_keep_the_digest(file: Path):
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    digest = FileDigest(file, OpenFile(file))
    assert pickle.loads(pickle.dumps(digest)).value == expected
    assert copy.deepcopy(FileDigest(file, OpenFile(file))).value == expected


def test_a_file_written_to_in_place_is_refused(file: Path):
    digest = FileDigest(file, OpenFile(file))
    with file.open("r+b") as stream:
        stream.write(b"W")
    os.utime(file, ns=(0, 0))  # clocks may be coarser than two writes
    with pytest.raises(InputError, match=r"model\.onnx: was written to since it was read"):
        _ = digest.value


def test_a_computed_digest_does_not_change(file: Path):
    digest = FileDigest(file, OpenFile(file))
    first = digest.value
    file.write_bytes(b"new")
    assert digest.value == first
