"""What every reader of CSV with named columns refuses."""

from pathlib import Path

import pytest

from rtool.errors import DataError
from rtool.finetune.data.formats.csv_columns import csv_rows
from rtool.finetune.data.formats.pair_lists import open_pair_csv

PLACE = Path("list.csv")


def test_rows_come_with_their_lines():
    names, rows = csv_rows(PLACE, 'a, b\n1,"two\nlines"\n3,4\n')
    assert names == ["a", "b"]
    assert rows == [(3, {"a": "1", "b": "two\nlines"}), (4, {"a": "3", "b": "4"})]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a;b\n1;2\n", "separates columns by semicolons"),
        ("a,b,a\n1,2,3\n", "column 'a' occurs twice"),
        ("a,b\n1\n", "line 2 has another number of cells than the header"),
        ("a,b\n1,2,3\n", "line 2 has another number of cells than the header"),
        ('a,b\n1,"2\n', "is a quotation mark missing"),
        ("a," + "b" * 200_000 + "\n", "line 1: field larger than field limit"),
    ],
)
def test_other_texts_are_refused_by_line(text, said):
    with pytest.raises(DataError, match=said):
        csv_rows(PLACE, text)


def test_a_pair_list_with_an_endless_first_line_is_refused(tmp_path):
    (tmp_path / "pairs.csv").write_text("a,b,same" + "x" * 200_000)
    with pytest.raises(DataError, match="field larger than field limit"):
        open_pair_csv(tmp_path / "pairs.csv")
