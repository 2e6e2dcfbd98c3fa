"""What `--preprocessing` takes, and what it refuses before any model is opened."""

import json

import pytest

from rtool.converters import IMAGENET, Preprocessing
from rtool.converters.preprocessing.requests import PREPROCESSINGS, read_request
from rtool.errors import InputError


def test_auto_and_nothing_ask_for_nothing():
    assert read_request("auto") is None
    assert read_request(None) is None


def test_a_file_says_all_of_it(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(Preprocessing(9, 5, channel_order="bgr", interpolation="nearest").to_dict()))
    values = read_request(str(path)).values
    assert (values["size"], values["order"], values["interpolation"]) == ((9, 5), "bgr", "nearest")
    assert values["mean"] == IMAGENET.mean


def test_a_name_may_be_followed_by_parts():
    values = read_request("arcface-bgr, size=128x96").values
    assert (values["size"], values["order"], values["mean"]) == ((128, 96), "bgr", (127.5,) * 3)


def test_numbers_may_stand_in_brackets():
    assert read_request("mean=[1, 2, 3],std=[4,5,6]").values["mean"] == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_every_name_is_read(name):
    assert read_request(name).normalises


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("arcfase", "did you mean.*arcface"),
        ("nowhere.json", "no such file"),
        ("mean=1", "both mean and std"),
        ("mean=a,std=1", "expected numbers"),
        ("mean=1,2,std=1", "numbers in mean and std"),
        ("mean=1,std=0", "std must be positive"),
        ("mean=nan,std=1", "finite"),
        ("mean=1,std=inf", "finite"),
        ("mean=0.485,0.456,0.406,std=0.229,0.224,0.225", "units of pixels.*mean=123.675,116.28,103.53"),
        ("mean=0.5,std=0.5", "units of pixels.*mean=127.5,std=127.5"),
        ("imagenet,order=rbg", "expected one of rgb"),
        ("imagenet,size=128", "HEIGHTxWIDTH"),
        ("imagenet,size=0x8", "positive"),
        ("imagenet,interpolation=lanczos", "unknown interpolation"),
        ("imagenet,colour=bgr", "unknown key 'colour'"),
        ("mean=1,mean=2,std=1", "twice"),
        ("imagenet,arcface", "no known name"),
        ("", "no such file"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, words):
    with pytest.raises(InputError, match=f"(?is){words}"):
        read_request(text)


def test_a_file_that_is_no_preprocessing_is_named(tmp_path):
    path = tmp_path / "p.json"
    path.write_text('{"height": 8}')
    with pytest.raises(InputError, match=r"p\.json: preprocessing: 'width' is missing"):
        read_request(str(path))
    path.write_text('{"height": 8, "width": 8, "mean": [1, 1, 1]}')
    with pytest.raises(InputError, match=r"p\.json: 'std' is missing; give mean and std"):
        read_request(str(path))
