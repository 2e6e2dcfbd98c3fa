"""RecordIO against bytes written by mxnet 1.9.1; .bin, manifests, MSMT17 and tar shards made here; damaged files."""

import io
import json
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rtool.errors import DataError, InputError
from rtool.finetune.data.pair_bin import open_pair_bin
from rtool.finetune.data.recordio import Record, RecordReader, pack_record, unpack_record, write_records
from rtool.finetune.data.sources import open_dataset

# Written by mxnet 1.9.1: MXIndexedRecordIO.write_idx(key, pack(IRHeader(flag, label, id, 0), content)).
GOLDEN_REC = (
    b"\n#\xd7\xce \x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    b"\x00\x00\x00\x00\x00\x80@\x00\x00\xc0@"
    b"\n#\xd7\xce \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    b"\x00\x00\x00\xff\xd8JPEG-1"
    b"\n#\xd7\xce\x1c\x00\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    b"\x00\x00\x00abcd\n#\xd7\xce\x04\x00\x00@efgh\n#\xd7\xce\x00\x00\x00`"
    b"\n#\xd7\xce#\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    b"\x00\x00\x00\x00\x00\x80?\x00\x00\xe0@xyz\x00"
    b"\n#\xd7\xce \x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    b"\x00\x00\x00\x00\x00\x80?\x00\x00@@"
    b"\n#\xd7\xce \x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    b"\x00\x00\x00\x00\x00@@\x00\x00\x80@"
)
GOLDEN_IDX = "0\t0\n1\t40\n2\t80\n3\t136\n4\t180\n5\t220\n"
MAGIC = struct.pack("<I", 0xCED7230A)
GOLDEN_RECORDS = {
    0: Record((4.0, 6.0), 0, b""),
    1: Record((0.0,), 1, b"\xff\xd8JPEG-1"),
    2: Record((0.0,), 2, b"abcd" + MAGIC + b"efgh" + MAGIC),
    3: Record((1.0, 7.0), 3, b"xyz"),
    4: Record((1.0, 3.0), 4, b""),
    5: Record((3.0, 4.0), 5, b""),
}


def jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def golden(tmp_path):
    (tmp_path / "g.rec").write_bytes(GOLDEN_REC)
    (tmp_path / "g.idx").write_text(GOLDEN_IDX)
    return tmp_path / "g.rec"


def test_what_mxnet_wrote_is_read_exactly(golden):
    reader = RecordReader(golden)
    assert {key: unpack_record(reader.read(key)) for key in reader.offsets} == GOLDEN_RECORDS


def test_what_we_write_is_what_mxnet_wrote(tmp_path):
    write_records(tmp_path / "w.rec", [(key, pack_record(record)) for key, record in GOLDEN_RECORDS.items()])
    assert (tmp_path / "w.rec").read_bytes() == GOLDEN_REC
    assert (tmp_path / "w.idx").read_text() == GOLDEN_IDX


@pytest.mark.parametrize("seed", range(5))
def test_any_payload_comes_back(tmp_path, seed):
    rng = np.random.default_rng(seed)
    payloads = {k: b"".join(rng.choice([MAGIC, b"a", b"bcd", b"\0\0\0\0"], rng.integers(0, 9))) for k in range(20)}
    write_records(tmp_path / "r.rec", payloads.items())
    reader = RecordReader(tmp_path / "r.rec")
    assert {key: reader.read(key) for key in payloads} == payloads


def test_an_insightface_record_data_set_has_its_images_and_labels(tmp_path):
    records = {0: Record((5.0, 7.0), 0, b"")}
    records |= {k: Record((float(label),), k, jpeg(50 * k)) for k, label in ((1, 3), (2, 3), (3, 8), (4, 8))}
    records |= {5: Record((1.0, 3.0), 5, b""), 6: Record((3.0, 5.0), 6, b"")}
    write_records(tmp_path / "train.rec", [(key, pack_record(record)) for key, record in records.items()])
    dataset = open_dataset(tmp_path)
    assert dataset.identities.tolist() == [0, 0, 1, 1]  # labels 3 and 8: a gap does not matter
    assert np.asarray(dataset.images[2]).mean() == pytest.approx(150, abs=2)


def test_a_record_file_cut_short_says_where(golden):
    golden.write_bytes(GOLDEN_REC[:-6])
    with pytest.raises(DataError, match="cut short: the record at byte 220 needs 40 bytes, the file has 34"):
        RecordReader(golden)


def test_an_index_of_another_file_and_a_missing_one_are_refused(golden):
    golden.with_suffix(".idx").write_text("0\t4\n")
    with pytest.raises(DataError, match="no record at byte 4"):
        RecordReader(golden)
    golden.with_suffix(".idx").unlink()
    with pytest.raises(InputError, match="no such file"):
        RecordReader(golden)


def test_negative_labels_are_refused(tmp_path):
    write_records(tmp_path / "n.rec", [(k, pack_record(Record((float(k - 2),), k, jpeg(9)))) for k in (1, 2, 3)])
    with pytest.raises(DataError, match="record 1 has a negative label"):
        open_dataset(tmp_path / "n.rec")


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_verification_set_has_its_pairs(tmp_path, protocol):
    images = [jpeg(10 * i) for i in range(6)]
    (tmp_path / "v.bin").write_bytes(pickle.dumps((images, [True, False, True]), protocol=protocol))
    dataset = open_pair_bin(tmp_path / "v.bin")
    assert dataset.pairs.tolist() == [[0, 1, 1], [2, 3, 0], [4, 5, 1]]
    assert np.asarray(dataset.images[5]).mean() == pytest.approx(50, abs=2)


def test_images_as_arrays_are_read_as_well(tmp_path):
    arrays = [np.frombuffer(jpeg(10 * i), dtype=np.uint8) for i in range(4)]
    (tmp_path / "a.bin").write_bytes(pickle.dumps((arrays, [True, False])))
    assert open_pair_bin(tmp_path / "a.bin").images[1].size == (8, 8)


class Malicious:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('owned').touch()",))


def test_a_malicious_pickle_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("m.bin").write_bytes(pickle.dumps(([Malicious()], [True])))
    with pytest.raises(DataError, match=r"it asks for builtins\.exec"):
        open_dataset("m.bin")
    assert not Path("owned").exists()


@pytest.mark.parametrize("content", [b"", b"<html>", pickle.dumps([1, 2, 3]), pickle.dumps(([b"x"], [True]))])
def test_what_is_no_verification_set_is_refused(tmp_path, content):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.bin"):
        open_dataset(tmp_path / "x.bin")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_manifests_in_both_forms_say_the_same(tmp_path, form):
    rows = [("a.png", "x", 1, 1), ("b.png", "x", 2, 0), ("c.png", "y", 1, 0)]
    names = ("path", "identity", "camera", "query")
    if form == "csv":
        text = "\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)])
    else:
        text = "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows)
    (tmp_path / f"m.{form}").write_text(text)
    dataset = open_dataset(tmp_path / f"m.{form}")
    assert dataset.identities.tolist() == [0, 0, 1]
    assert dataset.cameras.tolist() == [1, 2, 1]
    assert dataset.is_query.tolist() == [True, False, False]
    assert dataset.images.paths[0] == tmp_path / "a.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,identiti\na,b\n", "did you mean identity"),
        ("path,identity\na,\n", "image 1 has no identity"),
        ("path,identity\na,b\n", "at least 2"),
        ("path,identity,camera\na,b,left\nc,d,1\n", "camera must be a number"),
    ],
)
def test_a_manifest_that_does_not_parse_says_where(tmp_path, text, message):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path / "m.csv")


def test_msmt17_reads_its_lists_and_the_camera_in_the_name(tmp_path):
    for name, lines in {
        "train": ["0000/0000_000_01_0303morning_0015_0.jpg 0", "0001/0001_000_14_0303noon_0020_1.jpg 1"],
        "val": ["0000/0000_001_05_0303morning_0016_0.jpg 0"],
        "query": ["0000/0000_000_02_x.jpg 0"],
        "gallery": ["0000/0000_001_03_x.jpg 0", "0001/0001_001_02_x.jpg 1"],
    }.items():
        (tmp_path / f"list_{name}.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "mask_train_v2").mkdir()
    (tmp_path / "mask_test_v2").mkdir()
    train, test = open_dataset(tmp_path), open_dataset(tmp_path, "test")
    assert train.identities.tolist() == [0, 1, 0]
    assert train.cameras.tolist() == [1, 14, 5]
    assert test.is_query.tolist() == [True, False, False]
    assert test.images.paths[0] == tmp_path / "mask_test_v2/0000/0000_000_02_x.jpg"


def test_tar_shards_are_read_by_position(tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard:03d}.tar", "w") as tar:
            for k in range(3):
                for suffix, content in (
                    (".jpg", jpeg(40 * k)),
                    (".json", json.dumps({"identity": k, "camera": shard})),
                ):
                    data = content if isinstance(content, bytes) else content.encode()
                    info = tarfile.TarInfo(f"s{shard}/{k}{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    dataset = open_dataset(tmp_path)
    assert dataset.identities.tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.cameras.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.asarray(dataset.images[5]).mean() == pytest.approx(80, abs=2)
