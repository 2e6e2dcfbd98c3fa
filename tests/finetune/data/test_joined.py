"""Several data sets as one: labels offset, names told apart, nothing copied."""

import numpy as np
import pytest
from PIL import Image

from rtool.errors import ConfigError
from rtool.finetune.config.config import FinetuneConfig
from rtool.finetune.config.files import load_config
from rtool.finetune.data.dataset import NOBODY, UNKNOWN_CAMERA, ArrayImages, Dataset
from rtool.finetune.data.joined import join_datasets


def dataset(name, identities, cameras, value):
    count = len(identities)
    return Dataset(
        name=name,
        images=ArrayImages(
            np.full((count, 2, 2, 3), value, np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None]
        ),
        identities=np.array(identities),
        cameras=np.array(cameras),
        names=[f"{number}.jpg" for number in range(count)],
        notes=("one left out",),
    )


A = dataset("a", [0, 1, 1, NOBODY], [0, 3, UNKNOWN_CAMERA, 1], 10)
B = dataset("b", [0, 0, 2, 1], [0, 1, 0, 1], 50)
C = dataset("c", [0], [UNKNOWN_CAMERA], 90)


def test_labels_are_offset_and_images_keep_their_place():
    joined = join_datasets({"first": A, "second": B, "third": C})
    assert joined.identities.tolist() == [0, 1, 1, NOBODY, 2, 2, 4, 3, 5]
    assert joined.cameras.tolist() == [0, 3, UNKNOWN_CAMERA, 1, 4, 5, 4, 5, UNKNOWN_CAMERA]
    assert list(joined.names) == [
        *(f"first/{i}.jpg" for i in range(4)),
        *(f"second/{i}.jpg" for i in range(4)),
        "third/0.jpg",
    ]
    assert [np.asarray(joined.images[i])[0, 0, 0] for i in range(9)] == [10, 11, 12, 13, 50, 51, 52, 53, 90]
    assert joined.notes == ("a: one left out", "b: one left out", "c: one left out")
    assert joined.identity_count == A.identity_count + B.identity_count + C.identity_count
    part = joined.subset(np.array([8, 4]))
    assert (part.names, part.identities.tolist()) == (("third/0.jpg", "second/0.jpg"), [0, 1])
    assert list(joined.names[3:5]) == ["first/3.jpg", "second/0.jpg"]
    with pytest.raises(IndexError):
        joined.names[9]


def test_a_single_set_stays_as_it_is():
    assert join_datasets({"": A}) is A


def test_the_same_image_in_two_sets_is_refused(tmp_path):
    from rtool.converters.records.preprocessing import IMAGENET
    from rtool.errors import DataError
    from rtool.finetune.training.prepared_data import prepare_data

    for name in "ab":
        for identity in range(4):
            folder = tmp_path / name / f"p{identity}"
            folder.mkdir(parents=True)
            for number in range(2):
                value = 10 * identity + number + (100 if name == "b" and (identity, number) != (0, 0) else 0)
                Image.new("RGB", (4, 8), (value, value, value)).save(folder / f"{number}.png")
    config = FinetuneConfig.model_validate(
        {
            "model": {"reference": "-"},
            "losses": [{"kind": "arcface"}],
            "data": {"train": {"a": str(tmp_path / "a"), "b": str(tmp_path / "b")}},
            "evaluation": None,
        }
    )
    with pytest.raises(DataError, match=r"a/p0/0\.png and b/p0/0\.png are the same image under two identities"):
        prepare_data(config, IMAGENET)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{train: []}", "'data.train': names no data set"),
        ("{train: [a, a]}", "'data.train': 'a' is given twice"),
        ("{train: {x: a, y: a}}", "'a' is given twice"),
        ("{train: a, evaluate: [b, c]}", "takes one source, or a mapping of names to sources for several, got"),
        ("{train: a, evaluate: {mean: b}}", "'data.evaluate': 'mean' cannot name a set"),
        ("{train: a, evaluate: {a.b: c}}", "'a.b' cannot name a set"),
        ("{train: a, evaluate: {}}", "'data.evaluate': names no data set"),
        ("{train: [1, b]}", "a text is meant, got 1"),
        ("{train: [[a]]}", "'data.train.0': input should be a valid string"),
    ],
)
def test_sources_that_are_none_are_refused_by_field(tmp_path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(f"model: {{reference: m.onnx}}\nlosses: [{{kind: arcface}}]\ndata: {text}\n")
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    assert message in str(refused.value)
