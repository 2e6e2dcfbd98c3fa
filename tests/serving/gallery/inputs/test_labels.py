"""`--labels`: what it measures, and what of it fits nothing."""

from pathlib import Path

import pytest
from PIL import Image

from rtool.errors import DataError, InputError
from rtool.serving.gallery.inputs.labels import read_labels
from rtool.serving.gallery.inputs.sources import CropSource, open_crops


@pytest.fixture
def crops(tmp_path):
    for track in ("t0", "t1", "t2"):
        (tmp_path / "crops" / track).mkdir(parents=True)
        Image.new("RGB", (16, 32)).save(tmp_path / "crops" / track / "1.png")
    return open_crops(CropSource(str(tmp_path / "crops")), tmp_path)


def labels(folder: Path, text: str) -> Path:
    (folder / "labels.csv").write_text(text)
    return folder / "labels.csv"


def test_rows_that_fit_no_track_and_tracks_without_a_row_are_counted(tmp_path, crops):
    truth, notes = read_labels(labels(tmp_path, "track,identity\nt0,ann\nt2,bob\nx9,bob\n"), crops)
    assert truth == ("ann", None, "bob")
    assert notes == (
        "labels.csv: 1 rows are of no track in these crops, such as 'x9'",
        "labels.csv: 1 of 3 tracks have no identity and are not measured",
    )


def test_paths_name_tracks_too(tmp_path, crops):
    truth, notes = read_labels(labels(tmp_path, "path,identity\nt0/1.png,a\nt1/1.png,a\nt2/1.png,b\n"), crops)
    assert (truth, notes) == (("a", "a", "b"), ())


def test_identities_are_those_of_every_other_label(tmp_path, crops):
    """Accents written in two ways are one identity, `null` and an empty cell are none."""
    truth, _ = read_labels(labels(tmp_path, "track,identity\nt0,Zoe\u0301\nt1,Zo\u00e9\nt2,null\n"), crops)
    assert truth == ("Zo\u00e9", "Zo\u00e9", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("track,identity\nt0," + "a" * 200_000 + "\n", "line 2: field larger than field limit"),
        ('track,identity\nt0,"a\nt1,a\n', "is a quotation mark missing"),
        ("track,identity\nt0\n", "line 2 has another number of cells"),
        ("track,identity,identity\nt0,a,b\n", "column 'identity' occurs twice"),
        ("track,who\nt0,a\n", "expected the columns track,identity or path,identity, found track, who"),
        ("track,identity\nx,a\n", "names none of these tracks"),
        ("track,identity\nt0,a\nt0,b\n", "line 3: track t0 is b and was a"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path, crops, text, said):
    with pytest.raises((DataError, InputError), match=said):
        read_labels(labels(tmp_path, text), crops)
