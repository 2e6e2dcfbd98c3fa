"""`data.subset` and `data.min_images`: which images are used, and how their identities are numbered."""

import numpy as np
import pytest

from rtool.errors import DataError, InputError
from rtool.finetune.data.dataset import UNKNOWN_CAMERA, ArrayImages, Dataset
from rtool.finetune.data.selection.partners import with_images
from rtool.finetune.data.selection.positions import at_positions


def labelled(identities):
    count = len(identities)
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    names = tuple(map(str, range(count)))
    return Dataset("faces", ArrayImages(pixels), np.array(identities), np.full(count, UNKNOWN_CAMERA), names)


def test_identities_with_few_images_are_left_out_and_the_others_keep_their_order():
    kept = with_images(labelled([0] * 6 + [1] * 4 + [2] * 5), 5)
    assert kept.identities.tolist() == [0] * 6 + [1] * 5
    assert len(kept) == 11
    assert with_images(labelled([2, 1, 0, 2, 0]), 2).identities.tolist() == [
        1,
        0,
        1,
        0,
    ]  # 1 had one image: 0, 2 -> 0, 1


@pytest.mark.parametrize("text", ["5,1,2,8", "5\n1\n2\n8\n", "\ufeff5, 1,\n2,8,\n", "5 1 2 8"])
def test_positions_are_read_in_every_usual_form(tmp_path, text):
    (tmp_path / "subset.txt").write_text(text, encoding="utf-8")
    kept = at_positions(labelled([3, 3, 2, 2, 1, 1, 0, 0, 4]), tmp_path / "subset.txt")
    assert list(kept.names) == ["1", "2", "5", "8"]
    assert kept.identities.tolist() == [2, 1, 0, 3]  # 3, 2, 1, 4 in ascending order of the old labels
    assert np.asarray(kept.images[2])[0, 0, 0] == 5
    assert "4 of 9 images are used" in kept.notes[-1]


def test_a_position_given_twice_counts_once(tmp_path):
    (tmp_path / "subset.txt").write_text("1,1,4")
    kept = at_positions(labelled([0, 0, 0, 1, 1]), tmp_path / "subset.txt")
    assert len(kept) == 2
    assert "1 of its positions stand there again" in kept.notes[-1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0,1,9", "1 of 3 positions, such as 9, lie beyond the 4 images of faces"),
        ("0,-1", "'-1' is not a position"),
        ("0,1.5", "'1.5' is not a position"),
        ("a", "'a' is not a position"),
        ("0,99999999999999999999", "is not a position"),
        (" \n", "names no position"),
    ],
)
def test_what_names_no_image_is_refused(tmp_path, text, said):
    (tmp_path / "subset.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        at_positions(labelled([0, 0, 1, 1]), tmp_path / "subset.txt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"data\.subset: .*none\.txt cannot be read"):
        at_positions(labelled([0, 0, 1, 1]), tmp_path / "none.txt")
