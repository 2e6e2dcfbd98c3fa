"""RecordIO against bytes written by mxnet 1.9.1; MSMT17 and tar shards made here; damaged files; pickling."""

import io
import json
import multiprocessing
import os
import pickle
import resource
import struct
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from rtool.errors import DataError, InputError
from rtool.finetune.data.decoding import first_images
from rtool.finetune.data.formats.positional_files import PositionalFiles
from rtool.finetune.data.formats.recordio import Record, RecordReader, pack_record, unpack_record, write_records
from rtool.finetune.data.formats.sources import open_dataset

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


pread = PositionalFiles.read


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
    assert {key: unpack_record(reader.read(key)) for key in reader.keys} == GOLDEN_RECORDS


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


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (pack_record(Record((-1.0,), 2, b"x")), "record 2 has a negative label, -1"),
        (pack_record(Record((3.5,), 2, b"x")), "record 2 has a label that is not a whole number, 3.5"),
        (pack_record(Record((float("nan"),), 2, b"x")), "record 2 has a label that is not a whole number, nan"),
        (pack_record(Record((float("inf"),), 2, b"x")), "record 2 has a label that is not a whole number, inf"),
        (b"abc", "record 2: a record of 3 bytes cannot hold its head of 24"),
        (struct.pack("<IfQQ", 1000, 0, 2, 0) + b"xx", "record 2: a record of 26 bytes cannot hold its head of 4024"),
        (struct.pack("<IfQQ", 2**32 - 1, 0, 2, 0) + MAGIC, "record 2: a record of 28 bytes cannot hold its head"),
    ],
)
def test_a_record_without_a_label_that_is_an_identity_is_refused(tmp_path, payload, message):
    records = [(k, pack_record(Record((float(k),), k, jpeg(9)))) for k in (1, 3)]
    write_records(tmp_path / "n.rec", [*records, (2, payload)])
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path / "n.rec")


def test_labels_that_float32_would_merge_are_not_written_and_when_read_are_reported(tmp_path):
    with pytest.raises(DataError, match="label 16777217 is not exact"):
        pack_record(Record((2.0**24 + 1,), 0, b""))
    write_records(tmp_path / "b.rec", [(k, pack_record(Record((2.0**24 * (k % 2),), k, b"x"))) for k in range(4)])
    assert open_dataset(tmp_path / "b.rec").notes[0].startswith("2 labels are 16777216 or more")


def test_a_head_whose_key_float32_rounds_down_loses_no_image(tmp_path):
    first_identity = 2**24 + 1  # in record 0 as 2^24, which is the key of the last image
    records = {0: struct.pack("<IfQQff", 2, 0, 0, 0, first_identity, first_identity + 2)}
    records |= {first_identity - k: pack_record(Record((float(k % 2), 0.0), k, b"x")) for k in range(1, 5)}
    records |= {first_identity + k: pack_record(Record((1.0, 2.0), k, b"")) for k in range(2)}
    write_records(tmp_path / "h.rec", records.items())
    dataset = open_dataset(tmp_path / "h.rec")
    assert [dataset.names[index] for index in range(len(dataset))] == [f"h.rec:{2**24 - 3 + k}" for k in range(4)]


def test_opening_records_reads_their_heads_alone(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(PositionalFiles, "read", lambda *arguments: read.append(arguments) or pread(*arguments))
    records = [(k, pack_record(Record((float(k % 3),), k, b"\xff" * 10_000))) for k in range(50)]
    write_records(tmp_path / "r.rec", records)
    assert open_dataset(tmp_path / "r.rec").identity_count == 3
    assert len(read) == 2  # the last record, to see whether the file is whole


def test_a_head_that_holds_the_magic_word_is_read_all_the_same(tmp_path):
    number = struct.unpack("<I", MAGIC)[0]
    records = [(k, pack_record(Record((float(k), 5.0), number, b"xyz"))) for k in range(3)]
    write_records(tmp_path / "m.rec", records)
    dataset = open_dataset(tmp_path / "m.rec")
    assert dataset.identities.tolist() == [0, 1, 2]
    assert dataset.images.read(1) == b"xyz"


@pytest.mark.parametrize(
    ("index", "message"),
    [("0\t0\n1 40\n", "line 2: expected key and offset"), ("", "empty"), ("1\t0\n1\t0\n", "key 1 occurs twice")],
)
def test_an_index_that_does_not_parse_says_where(golden, index, message):
    golden.with_suffix(".idx").write_text(index)
    with pytest.raises(DataError, match=message):
        RecordReader(golden)


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
    with (tmp_path / "list_train.txt").open("a") as lines:
        lines.write("0001/cover.jpg 1\n")
    train = open_dataset(tmp_path)
    assert train.identities.tolist() == [0, 1, 0]
    assert train.notes[0].startswith("1 images left out that are listed otherwise")


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_tar_shards_are_read_by_position(tmp_path):
    for shard in range(2):
        images = {f"s{shard}/{k}.jpg": jpeg(40 * k) for k in range(3)}
        labels = {f"s{shard}/{k}.json": json.dumps({"identity": k, "camera": shard}).encode() for k in range(3)}
        write_tar(tmp_path / f"{shard:03d}.tar", images | labels)
    dataset = open_dataset(tmp_path)
    assert dataset.identities.tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.cameras.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.asarray(dataset.images[5]).mean() == pytest.approx(80, abs=2)


@pytest.mark.parametrize(
    "label",
    [{"0.cls": b"\xff\xfe"}, {"0.json": b"[1]"}, {"0.json": b'{"identity": 1, "camera": 1e30}'}],
    ids=["not UTF-8", "a list", "camera"],
)
def test_a_tar_member_without_a_label_is_named(tmp_path, label):
    write_tar(tmp_path / "a.tar", {"0.jpg": jpeg(0), **label})
    with pytest.raises(DataError, match=r"a\.tar: 0: no label; expected KEY\.cls"):
        open_dataset(tmp_path / "a.tar")


def test_a_few_images_without_a_label_are_left_out_of_a_tar_and_named(tmp_path):
    labelled = {f"{k}.jpg": jpeg(40 * k) for k in range(3)} | {f"{k}.cls": b"%d" % k for k in range(3)}
    write_tar(tmp_path / "a.tar", {**labelled, "cover.jpg": jpeg(9), "._0.jpg": b"", "__MACOSX/._0.cls": b""})
    dataset = open_dataset(tmp_path / "a.tar")
    assert dataset.names == ("a.tar:0", "a.tar:1", "a.tar:2")
    assert dataset.notes == (
        "1 images left out that have neither KEY.cls nor KEY.json beside them, such as a.tar:cover",
        "2 links and hidden files left out, such as a.tar:._0.jpg",
    )
    write_tar(tmp_path / "b.tar", {**labelled, **{f"x{k}.jpg": jpeg(k) for k in range(3)}})
    with pytest.raises(DataError, match="3 of 6 images have neither"):
        open_dataset(tmp_path / "b.tar")


def test_more_shards_than_files_a_process_may_open_are_read(tmp_path):
    for shard in range(130):
        write_tar(tmp_path / f"{shard:03d}.tar", {"0.jpg": jpeg(shard), "0.cls": str(shard % 2).encode()})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (120, limits[1]))
    try:
        dataset = open_dataset(tmp_path)
        means = [np.asarray(dataset.images[index]).mean() for index in (0, 129, 64, 0)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert means == pytest.approx([0, 129, 64, 0], abs=2)


def make(kind, folder):
    """A data set of four images of two identities."""
    if kind == "rec":
        write_records(folder / "x.rec", [(k, pack_record(Record((k % 2.0,), k, jpeg(50 * k)))) for k in range(4)])
    elif kind == "bin":
        (folder / "x.bin").write_bytes(pickle.dumps(([jpeg(50 * k) for k in range(4)], [True, False])))
    else:
        labels = {f"{k}.cls": str(k % 2).encode() for k in range(4)}
        write_tar(folder / "x.tar", {f"{k}.jpg": jpeg(50 * k) for k in range(4)} | labels)
    return open_dataset(folder / f"x.{kind}")


def test_a_file_is_not_closed_while_one_thread_reads_it_and_another_reads_all_others(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.bin" for number in range(100)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 10)
    files = PositionalFiles(paths)
    pending = [1]

    def read_after_the_others(descriptor: int, size: int, offset: int) -> bytes:
        if pending:
            pending.pop()
            with ThreadPoolExecutor(1) as other:
                assert list(other.map(lambda number: files.read(number, 1, 0)[0], range(1, 100))) == [*range(1, 100)]
        return os_pread(descriptor, size, offset)

    os_pread = os.pread
    monkeypatch.setattr(os, "pread", read_after_the_others)
    assert files.read(0, 10, 0) == bytes(10)
    assert not pending


@pytest.mark.parametrize("kind", ["rec", "bin", "tar"])
def test_a_data_set_can_be_sent_to_a_spawned_worker(tmp_path, kind):
    dataset = make(kind, tmp_path)
    dataset.images[0]  # opens the file
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        images = pool.apply(first_images, (dataset, 4))
    assert [np.asarray(image).mean() for image in images] == pytest.approx([0, 50, 100, 150], abs=2)
