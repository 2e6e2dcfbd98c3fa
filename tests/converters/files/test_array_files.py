"""Arrays out of files: numbers only, and no more than the file holds."""

import io
import zipfile

import numpy as np
import pytest

from rtool.converters.files.array_files import read_arrays
from rtool.errors import InputError


def npy(shape, descr="<f4", data=b""):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def test_arrays_are_read_as_numpy_reads_them(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(7), "c": np.asfortranarray(np.eye(3))}
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    np.save(tmp_path / "one.npy", arrays["a"])
    for name in ("plain.npz", "packed.npz"):
        found = read_arrays(tmp_path / name)
        assert all(np.array_equal(found[key], value) for key, value in arrays.items())
    assert np.array_equal(read_arrays(tmp_path / "one.npy"), arrays["a"])


def test_objects_false_shapes_and_damage_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([print, 1], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", a=np.array([print], dtype=object))
    (tmp_path / "shape.npy").write_bytes(npy("(1000000000000,)"))
    (tmp_path / "negative.npy").write_bytes(npy("(-1,)"))
    (tmp_path / "code.npy").write_bytes(npy("__import__('os')"))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "objects.npz").read_bytes()[:40])
    (tmp_path / "text.npy").write_bytes(b"text")
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr("a.npy", npy("(4000000000000,)"))
    (tmp_path / "bomb.npz").write_bytes(bomb.getvalue())
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(InputError, match="plain arrays"):
            read_arrays(path)
    with pytest.raises(InputError, match="plain arrays"):
        read_arrays(tmp_path / "missing.npy")
