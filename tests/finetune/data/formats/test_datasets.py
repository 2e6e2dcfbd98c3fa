"""Readers and generators: labels, cameras, what is left out, and messages for what cannot be read."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rtool.converters.records.preprocessing import IMAGENET
from rtool.errors import DataError, InputError
from rtool.finetune.data.dataset import NOBODY
from rtool.finetune.data.decoding import first_images, read_pixels
from rtool.finetune.data.formats.folder_listing import list_images
from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.data.image_files import EncodedImages
from rtool.finetune.data.splits import query_and_gallery, split_by_identity


def picture(path: Path, value: int = 128) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 12), (value, value, value)).save(path)


def as_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((4, 6)))


@pytest.fixture
def market(tmp_path):
    for name in ("0002_c1s1_000001_01", "0002_c2s1_000002_01", "0007_c3s1_000001_01", "-1_c1s1_000009_01"):
        picture(tmp_path / "bounding_box_train" / f"{name}.jpg")
    for name in ("0003_c1s1_000001_00", "0005_c2s1_000001_00"):
        picture(tmp_path / "query" / f"{name}.jpg")
    for name in ("0003_c2s1_000001_01", "0005_c6s1_000001_01", "0000_c1s1_000001_01", "-1_c1s1_000001_01"):
        picture(tmp_path / "bounding_box_test" / f"{name}.jpg")
    return tmp_path


def test_image_folder_numbers_identities_in_natural_order(tmp_path):
    for identity in ("s1", "s2", "s10"):
        for k in (1, 2, 10):
            picture(tmp_path / identity / f"{k}.pgm")
    dataset = open_dataset(tmp_path)
    assert dataset.names[:3] == ("s1/1.pgm", "s1/2.pgm", "s1/10.pgm")
    assert dataset.names[-1] == "s10/10.pgm"
    assert dataset.identities.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert (dataset.cameras == -1).all()


def test_converted_copies_beside_their_original_are_left_out_and_reported(tmp_path):
    for identity in ("a", "b"):
        picture(tmp_path / identity / "1.pgm")
        picture(tmp_path / identity / "1.pgm.png")
        picture(tmp_path / identity / "2.png")
    dataset = open_dataset(tmp_path)
    assert dataset.names == ("a/1.pgm", "a/2.png", "b/1.pgm", "b/2.png")
    assert dataset.notes == ("2 converted copies left out, such as a/1.pgm.png",)


def test_names_with_equal_numbers_have_one_order(tmp_path):
    for name in ("1", "01", "001", "0001"):
        picture(tmp_path / f"{name}.png")
    assert list_images(tmp_path).names == ["0001.png", "001.png", "01.png", "1.png"]


def test_a_link_that_cannot_be_followed_is_said_and_one_to_nothing_is_no_image(tmp_path):
    picture(tmp_path / "1.png")
    (tmp_path / "nothing.png").symlink_to("gone.png")
    assert list_images(tmp_path).names == ["1.png"]
    (tmp_path / "long.png").symlink_to("x" * 300)
    with pytest.raises(DataError, match=r"long\.png: cannot be examined: File name too long"):
        list_images(tmp_path)


@pytest.mark.parametrize(
    ("names", "cameras"),
    [
        (("0001_c2s1_000001_01", "0002_c15s2_000001_01"), [2, 15]),
        (("0001_c2_f0046182", "0002_c8_f0046985"), [2, 8]),
        (("img_c0001", "img_c0002"), [-1, -1]),
        (("0001_c0001", "0002_c0002"), [-1, -1]),
        (("0001_c1s1_000001_01", "plain"), [-1, -1]),
    ],
)
def test_camera_numbers_are_those_of_the_known_forms_of_names(tmp_path, names, cameras):
    for identity, name in enumerate(names):
        picture(tmp_path / f"p{identity}" / f"{name}.png")
    assert open_dataset(tmp_path).cameras.tolist() == cameras


def test_what_is_no_identity_is_left_out_and_reported(tmp_path):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for name in ("a/1.png", "b/1.png", "b/deeper/2.PNG", "b/1²2.png"):
        picture(data / name)
    for name in (".ipynb_checkpoints/1.png", "__MACOSX/a/._1.png", "a/._1.png"):
        picture(data / name)
    for number in range(3):
        picture(data / f"{number}.png")
    picture(elsewhere / "1.png")
    (data / "c").symlink_to(elsewhere)
    (data / "again").symlink_to(elsewhere)
    (data / "a" / "round").symlink_to(data)
    dataset = open_dataset(data)
    assert dataset.names == ("a/1.png", "again/1.png", "b/1.png", "b/1²2.png", "b/deeper/2.PNG")
    assert dataset.notes == (
        "3 images in hidden files and folders and in __MACOSX left out, such as .ipynb_checkpoints/1.png",
        "2 links to folders that are read already left out, such as a/round",
        "3 images outside of sub-folders left out: they have no identity",
    )


def test_a_name_that_is_not_utf8_can_be_printed(tmp_path):
    for identity in ("a", "b"):
        picture(tmp_path / identity / "1.png")
    (tmp_path / "a" / "1.png").rename(os.fsdecode(os.fsencode(tmp_path / "a") + b"/b\xe9d.png"))
    root = tmp_path.rename(os.fsdecode(os.fsencode(tmp_path) + b"\xe9"))
    dataset = open_dataset(root)
    assert dataset.name == f"{tmp_path}\\udce9"
    assert dataset.names[0] == "a/b\\udce9d.png"
    assert dataset.images[0].size == (8, 12)


@pytest.mark.parametrize("name", ["foo.jpg", "--1_c1s1_000001_01.jpg", "1²_c1s1_000001_01.jpg"])
def test_one_name_of_another_form_is_left_out_of_market1501_and_named(market, name):
    picture(market / "bounding_box_train" / name)
    dataset = open_dataset(market)
    assert (len(dataset), dataset.identity_count) == (3, 2)
    assert any(note.startswith("1 images left out that have names of another form than") for note in dataset.notes)
    assert any(note.endswith(f"such as bounding_box_train/{name}") for note in dataset.notes)


def test_a_folder_whose_names_mostly_have_another_form_is_refused_in_market1501(market):
    for number in range(4):
        picture(market / "query" / f"{number}.jpg")
    assert len(open_dataset(market)) == 3  # the other folders are what they were
    with pytest.raises(DataError, match=r"query: 4 of 6 images have names of another form than 0002_c1s1"):
        open_dataset(market, "test")


def test_queries_that_are_all_junk_do_not_turn_the_protocol(market):
    for path in (market / "query").iterdir():
        path.rename(path.with_name(f"-2{path.name[4:]}"))
    test = open_dataset(market, "test")
    assert test.is_query.tolist() == [False, False, False]
    with pytest.raises(DataError, match="0 of 3 images are queries"):
        query_and_gallery(test)


def test_market1501_without_queries_is_refused(market):
    for path in (market / "query").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="query: no images"):
        open_dataset(market, "test")


def test_images_are_turned_upright_in_files_and_in_packs(tmp_path):
    image = Image.new("RGB", (8, 12))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees to look at it
    for identity in ("a", "b"):
        (tmp_path / identity).mkdir()
        image.save(tmp_path / identity / "1.jpg", exif=exif)
    encoded = EncodedImages(1, [(tmp_path / "a" / "1.jpg").read_bytes()].__getitem__)
    assert open_dataset(tmp_path).images[0].size == encoded[0].size == (12, 8)


def test_an_orientation_that_cannot_be_read_leaves_the_image_as_it_is(tmp_path):
    for identity in ("a", "b"):
        (tmp_path / identity).mkdir()
        Image.new("RGB", (8, 12)).save(tmp_path / identity / "1.jpg", exif=b"Exif\0\0XX not a TIFF head")
    assert open_dataset(tmp_path).images[0].size == (8, 12)


def test_market1501_drops_junk_and_keeps_distractors(market):
    train = open_dataset(market)
    assert (len(train), train.identity_count) == (3, 2)
    assert train.cameras.tolist() == [1, 2, 3]
    test = open_dataset(market, "test")
    assert len(test) == 5
    assert test.is_query.tolist() == [True, True, False, False, False]
    assert test.identities[0] == test.identities[3]  # 0003: query c1, gallery c2
    query, gallery = query_and_gallery(test)
    assert (query.tolist(), gallery.tolist()) == ([0, 1], [2, 3, 4])
    assert test.identities.tolist().count(NOBODY) == 1  # 0000 is a wrong answer in the gallery, and no identity
    assert "1 distractors (identity 0000) are of nobody" in test.notes
    assert len(test.of_somebody()) == 4


@pytest.mark.parametrize("queries", [0, 5])
def test_queries_without_gallery_and_the_other_way_round_are_refused(market, queries):
    test = open_dataset(market, "test")
    with pytest.raises(DataError, match=f"{queries} of 5 images are queries"):
        query_and_gallery(replace(test, is_query=np.full(5, queries > 0)))


def test_a_folder_with_one_identity_is_refused(tmp_path):
    picture(tmp_path / "only" / "1.png")
    with pytest.raises(DataError, match=r"one identity \(only\)"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("/no/such/folder", "no such file or folder"),
        ("synthetic-people:identitys=3", "did you mean identities"),
        ("synthetic-people:identities=many", "identities must be int, got 'many'"),
        ("synthetic-faces:size=64", "size must be HEIGHTxWIDTH"),
    ],
)
def test_a_wrong_spec_says_what_would_be_right(spec, message):
    with pytest.raises(InputError, match=message):
        open_dataset(spec)


def test_an_unreadable_image_is_skipped_and_named(tmp_path):
    for k in range(150):
        picture(tmp_path / f"p{k % 2}" / f"{k:03d}.png")
    (tmp_path / "p0" / "000.png").write_bytes(b"<html>not an image</html>")
    read = read_pixels(open_dataset(tmp_path), as_array)
    assert read.unreadable == ("p0/000.png",)
    assert len(read.values) == len(read.dataset) == 149
    assert first_images(open_dataset(tmp_path), 2)[0].size == (8, 12)


def test_over_one_percent_unreadable_stops_and_names_them(tmp_path):
    for k in range(20):
        picture(tmp_path / f"p{k % 2}" / f"{k:03d}.png")
    (tmp_path / "p1" / "003.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 20 images cannot be read \(p1/003.png\)"):
        read_pixels(open_dataset(tmp_path), as_array)


def test_an_image_without_an_8_bit_form_counts_as_unreadable(tmp_path):
    for k in range(101):
        picture(tmp_path / f"p{k % 2}" / f"{k:03d}.png")
    Image.fromarray(np.zeros((12, 8), np.float32)).save(tmp_path / "p0" / "float.tif")
    assert read_pixels(open_dataset(tmp_path), IMAGENET.resize).unreadable == ("p0/float.tif",)


def test_split_keeps_identities_apart_and_depends_on_the_seed_alone():
    dataset = open_dataset("synthetic-faces:identities=10,images=2,size=16x16")
    train, held = split_by_identity(dataset, 0.3, seed=4)
    owners = [{name.split("_")[0] for name in part.names} for part in (train, held)]
    assert (len(owners[0]), len(owners[1]), len(owners[0] & owners[1])) == (7, 3, 0)
    assert split_by_identity(dataset, 0.3, seed=4)[1].names == held.names
    assert split_by_identity(dataset, 0.3, seed=5)[1].names != held.names
    with pytest.raises(DataError, match="holdout"):
        split_by_identity(dataset, 0.05, seed=0)


@pytest.mark.parametrize("kind", ["people", "faces"])
def test_synthetic_images_depend_on_their_seed_alone(kind):
    spec = f"synthetic-{kind}:identities=4,images=3,size=32x16,seed="
    first, again, other = (open_dataset(spec + seed).images.pixels for seed in ("1", "1", "2"))
    assert (first == again).all()
    assert (first != other).mean() > 0.5


def test_camera_sets_change_the_pictures_and_not_the_people():
    spec = "synthetic-people:identities=6,images=4,seed=3,cameras="
    home, away = open_dataset(spec + "0"), open_dataset(spec + "1")
    assert (home.identities == away.identities).all()
    assert (home.cameras == away.cameras).all()
    assert np.abs(home.images.pixels.astype(int) - away.images.pixels).mean() > 15


def test_raw_pixels_of_synthetic_people_do_not_tell_them_apart():
    from rtool.finetune.evaluation.evaluation import evaluate_embeddings

    dataset = open_dataset("synthetic-people:identities=30,images=8,seed=5,cameras=0,size=64x32")
    result = evaluate_embeddings(
        lambda pixels: pixels.reshape(len(pixels), -1).astype("f4") - 120, dataset, resize=np.asarray
    )
    assert result.protocol == "retrieval"
    assert result.mAP < 0.35
