"""Manifests in CSV and JSON lines: what they say, and where they are wrong."""

import json

import pytest

from rtool.errors import DataError
from rtool.finetune.data.formats.sources import open_dataset


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


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
    ("name", "text"),
    [
        ("numbers.jsonl", lines({"path": "a", "identity": 0}, {"path": "b", "identity": 7})),
        ("blank.jsonl", "\n" + lines({"path": "a", "identity": 1}, {"path": "b", "identity": 2}) + "\n\n"),
        ("separator.jsonl", lines({"path": "a", "identity": "x\u2028y"}, {"path": "b", "identity": "z"})),
        ("crlf.jsonl", lines({"path": "a", "identity": 1}, {"path": "b", "identity": 2}).replace("\n", "\r\n")),
        ("bom.csv", "\ufeffpath,identity\r\na,1\r\nb,2\r\n"),
        ("quoted.csv", 'path,identity\na,"x\ny"\nb,"x,y"\n'),
        ("gaps.csv", "path,identity\na,5\nb,900\n"),
    ],
)
def test_what_editors_and_programs_write_is_read(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    dataset = open_dataset(tmp_path / name)
    assert (dataset.names, dataset.identities.tolist()) == (("a", "b"), [0, 1])


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("yes", "no"), ("TRUE", "FALSE"), ("1.0", "0.0"), (True, False)])
def test_yes_and_no_are_understood_as_they_are_written(tmp_path, yes, no):
    rows = [{"path": "a", "identity": 1, "query": yes}, {"path": "b", "identity": 2, "query": no}]
    (tmp_path / "m.jsonl").write_text(lines(*rows))
    assert open_dataset(tmp_path / "m.jsonl").is_query.tolist() == [True, False]


@pytest.mark.parametrize("camera", ["3", 3, 3.0, "3.0"])
def test_a_camera_is_a_whole_number_however_it_is_written(tmp_path, camera):
    rows = [{"path": "a", "identity": 1, "camera": camera}, {"path": "b", "identity": 2, "camera": 0}]
    (tmp_path / "m.jsonl").write_text(lines(*rows))
    assert open_dataset(tmp_path / "m.jsonl").cameras.tolist() == [3, 0]


GOOD = {"path": "a", "identity": 1}


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("csv", "path,identiti\na,b\n", "unknown column 'identiti'; did you mean identity"),
        ("csv", "path;identity\na;b\n", "separates columns by semicolons; save the file with commas"),
        ("csv", "path\tidentity\na\tb\n", "separates columns by tabs"),
        ("csv", "a;b;same\nx;y;1\n", "separates columns by semicolons"),
        ("csv", "sep=;\npath;identity\na;b\n", "separates columns by semicolons"),
        ("csv", "path,identity\na,b\n", "1 images of 1 identity; at least 2"),
        ("csv", "", "at least 2"),
        ("csv", "path,identity,camera\na,b,left\nc,d,1\n", "line 2: camera must be a number from 0 on, got 'left'"),
        ("csv", "path,identity,camera\na,b,1\nc,d,²\n", "line 3: camera must be"),
        ("csv", f"path,identity,camera\na,b,1\nc,d,{10**19}\n", "line 3: camera must be"),
        ("csv", "path,identity,camera\na,b,1\nc,d,-1\n", "line 3: camera must be"),
        ("csv", "path,identity,camera\na,b,1\nc,d,nan\n", "line 3: camera must be"),
        ("csv", "path,identity,query\na,b,1\nc,d,perhaps\n", "line 3: query must be 0 or 1, got 'perhaps'"),
        ("csv", "path,identity\na,1\na,2\n", "lines 2 and 3: a is of '1' and of '2'"),
        ("csv", "path,identity\na,1,\nb,2\n", "line 2 has more cells than the header"),
        ("csv", "path,identity,identity\na,1,2\nb,2,3\n", "column 'identity' occurs twice"),
        ("csv", 'path,identity\na,"1\nb,2\nc,3\n', "is a quotation mark missing"),
        ("csv", 'path,identity\na,"1\nb,"2\nc,3\n', "line 3: .*is a quotation mark missing"),
        ("jsonl", lines(GOOD, {"path": "b", "identity": 2.5}), "line 2: expected an identity, text or a whole number"),
        ("jsonl", lines(GOOD, {"path": "b", "identity": {"a": 1}}), "line 2: expected an identity"),
        ("jsonl", lines(GOOD, {"path": ["b"], "identity": 1}), "line 2: expected a path"),
        ("jsonl", lines(GOOD | {"querry": 1}), "unknown column 'querry'; did you mean query"),
        ("jsonl", lines(GOOD, {"path": "b", "identity": 2, "camera": 1}), "line 2 has the fields"),
        ("jsonl", lines(GOOD) + "{", "line 2 is not a JSON object"),
        ("jsonl", lines(GOOD) + "[1]", "line 2: expected a JSON object, got list"),
    ],
)
def test_a_manifest_that_does_not_parse_says_where(tmp_path, form, text, message):
    (tmp_path / f"m.{form}").write_text(text)
    with pytest.raises(DataError, match=rf"m\.{form}: .*{message}"):
        open_dataset(tmp_path / f"m.{form}")


def test_text_in_another_encoding_is_named_with_its_line(tmp_path):
    (tmp_path / "m.csv").write_bytes("path,identity\na,x\nb,é\n".encode("latin-1"))
    with pytest.raises(DataError, match="line 3 is not UTF-8"):
        open_dataset(tmp_path / "m.csv")


def test_too_few_identities_say_what_was_left_out(tmp_path):
    (tmp_path / "m.csv").write_text("path,identity\na.png,1\nb.png,nan\nc.png,-1\n")
    with pytest.raises(DataError, match=r"1 images of 1 identity \(1 images without a label left out, such as b.png"):
        open_dataset(tmp_path / "m.csv")
