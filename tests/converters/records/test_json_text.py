"""JSON of strangers ends in one kind of error."""

import json

import pytest

from rtool.converters.records.json_text import parse_json


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * 150 + "]" * 150, "more than 100 deep"),
        ('{"a": 1, "a": 2}', "'a' stands there twice"),
        ("9" * 5000, "4300 digits"),
        ("{", "Expecting"),
    ],
    ids=["cut", "deep", "twice", "number", "damaged"],
)
def test_what_other_readers_choke_on_is_a_decode_error(text, message):
    with pytest.raises(json.JSONDecodeError, match=message):
        parse_json(text)


def test_ordinary_documents_are_read_as_json_reads_them():
    text = json.dumps({"a": [1, 2.5, None, {"b": "c"}], "d": True})
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)
