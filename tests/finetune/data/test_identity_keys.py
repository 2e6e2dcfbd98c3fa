"""Whom a label names, however it is written."""

import pytest

from rtool.errors import DataError
from rtool.finetune.data.identity_keys import NoIdentity, few_odd_notes, identity_key


@pytest.mark.parametrize("label", [None, "", "  ", "nan", "NaN", float("nan"), "null", "NULL", "None", "<NA>"])
def test_what_programs_write_for_a_missing_value_is_nobody(label):
    assert identity_key(label) is NoIdentity.MISSING


@pytest.mark.parametrize("label", [-1, -1.0, "-1", " -1.0 ", -2])
def test_negative_numbers_are_junk(label):
    assert identity_key(label) is NoIdentity.JUNK


@pytest.mark.parametrize("labels", [(3, 3.0, "3", " 3.0", "+3"), ("Jos\u00e9", "Jose\u0301 "), ("a  b", "a b")])
def test_one_identity_written_in_several_ways_is_one(labels):
    assert len({identity_key(label) for label in labels}) == 1


@pytest.mark.parametrize("label", [True, [1], 1.5, float("inf")])
def test_what_is_no_label_is_refused(label):
    with pytest.raises(ValueError, match="expected an identity"):
        identity_key(label)


def test_a_few_odd_images_are_left_out_and_half_of_them_are_not():
    assert few_odd_notes("set", [], 0, "are odd") == ()
    assert few_odd_notes("set", ["x.jpg"], 3, "are odd") == ("1 images left out that are odd, such as x.jpg",)
    with pytest.raises(DataError, match=r"set: 1 of 2 images are odd, such as x\.jpg"):
        few_odd_notes("set", ["x.jpg"], 2, "are odd")
