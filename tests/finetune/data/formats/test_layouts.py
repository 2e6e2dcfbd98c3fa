"""Folders of parts, nested data sets and lists of pairs: recognised or refused by name, never taken for identities."""

import numpy as np
import pytest
from PIL import Image

from rtool.errors import DataError, InputError
from rtool.finetune.data.formats.sources import open_dataset


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(value).integers(0, 256, (12, 8, 3), dtype=np.uint8)).save(path)


def people(root, names, images=2, suffix=".png"):
    for name in names:
        for number in range(images):
            picture(root / name / f"{number}{suffix}", hash((name, number)) % 1000)
    return root


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "valid", "TEST")])
def test_parts_are_no_identities(tmp_path, names):
    for part, identities in zip(names, (["a", "b", "c"], ["d", "e"], ["f", "g"]), strict=True):
        people(tmp_path / part, identities)
    assert open_dataset(tmp_path).identity_count == 3
    assert open_dataset(tmp_path, "test").names[0].startswith("f/")


def test_without_a_test_part_the_val_part_is_evaluated(tmp_path):
    people(tmp_path / "train", "ab"), people(tmp_path / "val", "cde")
    assert open_dataset(tmp_path, "test").identity_count == 3


@pytest.mark.parametrize("folder", [".", "test"])
def test_query_and_gallery_are_the_sides_of_a_retrieval(tmp_path, folder):
    (
        people(tmp_path / "train", "ab"),
        people(tmp_path / folder / "query", "cd"),
        people(tmp_path / folder / "gallery", "cde"),
    )
    test = open_dataset(tmp_path, "test")
    assert (len(test), int(test.is_query.sum()), test.identity_count) == (10, 4, 3)


def test_query_and_gallery_may_hold_files_named_as_market1501s(tmp_path):
    for part, camera in (("query", 1), ("gallery", 2)):
        for number in (0, 2, 7)[part == "query" :]:
            picture(tmp_path / part / f"{number:04d}_c{camera}s1_000451_03.jpg", 10 * number + camera)
        picture(tmp_path / part / "cover.jpg", camera)
    test = open_dataset(tmp_path, "test")
    assert test.identities.tolist() == [0, 1, -1, 0, 1]
    assert test.is_query.tolist() == [True, True, False, False, False]


def test_a_missing_part_is_named(tmp_path):
    people(tmp_path / "val", "ab"), people(tmp_path / "test", "cd")
    with pytest.raises(InputError, match=r"holds test/, val/, and no train/ to train on"):
        open_dataset(tmp_path)
    people(tmp_path / "query", "cd")
    with pytest.raises(InputError, match="retrieval needs both query/ and gallery/"):
        open_dataset(tmp_path, "test")


def test_a_part_beside_identities_is_refused(tmp_path):
    people(tmp_path, ["alice", "bob", "test"])
    with pytest.raises(DataError, match="'test' is named as a part of a data set, and 'alice' beside it is not"):
        open_dataset(tmp_path)


def test_two_folders_of_one_part_are_refused(tmp_path):
    people(tmp_path / "val", "ab"), people(tmp_path / "validation", "cd")
    with pytest.raises(DataError, match="both name the val part"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("nesting", ["Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15"])
def test_a_nested_market1501_is_found(tmp_path, nesting):
    for number in (2, 7):
        picture(tmp_path / nesting / "bounding_box_train" / f"{number:04d}_c1s1_000451_03.jpg", number)
    assert open_dataset(tmp_path).identity_count == 2


def test_a_folder_of_market1501_alone_is_read_by_its_names(tmp_path):
    for number in (0, 2, 7):
        picture(tmp_path / f"{number:04d}_c{number + 1}s1_000451_03.jpg", number)
    dataset = open_dataset(tmp_path)
    assert dataset.identities.tolist() == [-1, 0, 1]
    assert dataset.cameras.tolist() == [1, 3, 8]


def test_an_odd_file_in_or_below_a_folder_of_market1501_alone_is_left_out(tmp_path):
    for number in (2, 7, 9):
        picture(tmp_path / f"{number:04d}_c1s1_000451_03.jpg", number)
    picture(tmp_path / "cover.jpg", 98), picture(tmp_path / "notes" / "1.jpg", 99)
    dataset = open_dataset(tmp_path)
    assert dataset.identity_count == 3
    assert "2 images left out" in dataset.notes[0]


def test_veri776_is_read_in_its_own_folders(tmp_path):
    for part in ("image_train", "image_query", "image_test"):
        for number in (1, 2):
            picture(tmp_path / part / f"{number:04d}_c{number:03d}_00016450_0.jpg", number)
    assert open_dataset(tmp_path).cameras.tolist() == [1, 2]
    assert open_dataset(tmp_path, "test").is_query.tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("mark", "name"),
    [
        ("train_test_split/train_list.txt", "VehicleID"),
        ("cuhk-03.mat", "CUHK03"),
        ("images_labeled/1_001_1_01.png", "CUHK03"),
        ("bbox_train/0001/0001C1T0001F001.jpg", "MARS"),
    ],
)
def test_what_needs_its_own_lists_is_refused_by_name(tmp_path, mark, name):
    people(tmp_path, ["image", "other"])
    (tmp_path / mark).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / mark).write_text("")
    with pytest.raises(InputError, match=f"this is {name}.*write a manifest"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    "names", [("cam_a", "cam_b"), ("cam1", "cam2", "cam10"), ("Camera 1", "Camera 2"), ("Visible", "Thermal")]
)
def test_folders_of_cameras_are_no_identities(tmp_path, names):
    people(tmp_path, names), (tmp_path / "exp").mkdir()
    with pytest.raises(InputError, match=r"named as cameras .*, not as identities; write a manifest"):
        open_dataset(tmp_path)


def test_folders_of_data_sets_are_no_identities(tmp_path):
    for folder in ("detected", "labeled"):  # as CUHK03-NP has them
        picture(tmp_path / folder / "bounding_box_train" / "0001_c1_1.png")
    with pytest.raises(InputError, match=r"'detected' in it is a data set, and no identity; give .*detected"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("inner", ["train/a/1.png", "duke/DukeMTMC-reID/bounding_box_train/0001_c1_f1.jpg"])
def test_a_data_set_beside_folders_is_no_identity(tmp_path, inner):
    people(tmp_path, ["a"]), picture(tmp_path / "set" / inner)
    with pytest.raises(InputError, match="'set' in it is a data set"):
        open_dataset(tmp_path)


def test_sessions_of_identities_may_be_named_as_parts(tmp_path):
    people(tmp_path / "alice", ["test", "probe"]), people(tmp_path / "bob", ["eval", "test"])
    assert open_dataset(tmp_path).identity_count == 2


def test_an_archive_beside_folders_is_not_read_instead_of_them(tmp_path):
    people(tmp_path, "ab")
    (tmp_path / "old.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds images as well as .*old\.tar"):
        open_dataset(tmp_path)


def test_one_odd_file_name_does_not_change_the_protocol(tmp_path):
    for number in (2, 7):
        for camera in (1, 2, 3):
            picture(tmp_path / f"{number:04d}" / f"{number:04d}_c{camera}s1_000451_03.jpg", 10 * number + camera)
    picture(tmp_path / "0007" / "cover.jpg", 99)
    dataset = open_dataset(tmp_path)
    assert sorted(dataset.cameras.tolist()) == [-1, 1, 1, 2, 2, 3, 3]
    assert dataset.notes == ("1 names without a camera, such as cover.jpg; all others have one",)


def lfw(root, folds, per_fold, names):
    """Pairs as LFW lists them, and every image that they name."""
    lines = [f"{folds}\t{per_fold}" if folds > 1 else str(per_fold)]
    for fold in range(folds):
        for number in range(per_fold):
            lines.append(f"{names[(fold + number) % len(names)]}\t1\t2")
        for number in range(per_fold):
            one, other = names[(fold + number) % len(names)], names[(fold + number + 1) % len(names)]
            lines.append(f"{one}\t1\t{other}\t2")
    for number, name in enumerate(names):
        for image in (1, 2):
            picture(root / name / f"{name}_{image:04d}.jpg", 10 * number + image)
    return "\n".join(lines) + "\n"


def test_pairs_of_lfw_are_measured_as_they_are_listed(tmp_path):
    (tmp_path / "pairs.txt").write_text(lfw(tmp_path / "lfw", 10, 3, ["Ann_Lee", "Bo_Ek", "Cy_Fu", "Di_Go"]))
    dataset = open_dataset(tmp_path / "pairs.txt")
    assert dataset.pairs.shape == (60, 3)
    assert dataset.pairs[:, 2].reshape(10, 6).tolist() == [[1, 1, 1, 0, 0, 0]] * 10
    assert [dataset.names[image] for image in dataset.pairs[0, :2]] == [
        "Ann_Lee/Ann_Lee_0001.jpg",
        "Ann_Lee/Ann_Lee_0002.jpg",
    ]
    assert (dataset.identities[dataset.pairs[:, 0]] == dataset.identities[dataset.pairs[:, 1]]).tolist() == [
        bool(flag) for flag in dataset.pairs[:, 2]
    ]


def test_a_list_without_ten_folds_gives_every_fold_both_kinds(tmp_path):
    text = lfw(tmp_path / "people", 1, 50, ["Ann_Lee", "Bo_Ek"])
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "pairsDevTest.txt").write_text(text)
    dataset = open_dataset(f"{tmp_path}/lists/pairsDevTest.txt:root={tmp_path}/people")
    assert dataset.pairs[:, 2].reshape(10, 10).sum(axis=1).tolist() == [5] * 10


def test_pairs_in_csv_that_name_a_missing_image_are_refused_with_the_line(tmp_path):
    people(tmp_path, "ab", images=2)
    (tmp_path / "pairs.csv").write_text("a,b,same\na/0.png,a/1.png,1\na/0.png,b/7.png,0\n")
    with pytest.raises(DataError, match=r"line 3: .*b/7\.png does not exist; .*pairs\.csv:root=FOLDER"):
        open_dataset(tmp_path / "pairs.csv")


def test_pairs_in_csv(tmp_path):
    people(tmp_path, "ab", images=6)
    rows = [f"a/{n}.png,a/{n + 1}.png,1" for n in range(5)] + [f"a/{n}.png, b/{n}.png, 0" for n in range(5)]
    (tmp_path / "pairs.csv").write_text("a,b,same\n" + "\n".join(rows) + "\n")
    pairs = open_dataset(tmp_path / "pairs.csv").pairs
    assert sorted(pairs[:, 2].tolist()) == [0] * 5 + [1] * 5
    assert set(pairs[:2, 2].tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("10\t3", "ten three"), "expected a first line with the numbers"),
        (lambda text: text.replace("10\t3", "10\t4"), "announces 80 pairs, 60 follow"),
        (lambda text: text.replace("Bo_Ek\t1\t2", "Bo_Ek\t1\t9", 1), "line 3: .*Bo_Ek_0009.jpg does not exist"),
        (lambda text: text.replace("Bo_Ek\t1\t2", "Bo_Ek\t1", 1), "line 3: expected NAME NUMBER NUMBER"),
    ],
)
def test_a_wrong_list_of_pairs_says_where(tmp_path, change, message):
    (tmp_path / "pairs.txt").write_text(change(lfw(tmp_path, 10, 3, ["Ann_Lee", "Bo_Ek", "Cy_Fu"])))
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path / "pairs.txt")


def test_the_folder_of_the_people_is_asked_for_where_it_is_not_near(tmp_path):
    (tmp_path / "pairs.txt").write_text("1\nAnn_Lee\t1\t2\n")
    with pytest.raises(InputError, match=r"0 folders near it hold 'Ann_Lee'.*pairs.txt:root=FOLDER"):
        open_dataset(tmp_path / "pairs.txt")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a/1.png,a/0.png,0", r"lines 2 and 12: .*a/1\.png and .*a/0\.png are of one person and of two"),
        ("b/0.png,b/0.png,0", "line 12: .* are one image, and listed as of two people"),
    ],
)
def test_pairs_that_contradict_each_other_are_refused_with_their_lines(tmp_path, row, message):
    people(tmp_path, "ab", images=6)
    rows = [f"a/{n}.png,a/{n + 1}.png,1" for n in range(5)] + [f"a/{n}.png,b/{n}.png,0" for n in range(5)]
    (tmp_path / "pairs.csv").write_text("\n".join(["a,b,same", *rows, "a/1.png,a/0.png,1.0"]) + "\n")
    dataset = open_dataset(tmp_path / "pairs.csv")
    assert (len(dataset.pairs), dataset.notes) == (11, ("1 pairs are listed again, and are counted as listed",))
    (tmp_path / "pairs.csv").write_text("\n".join(["a,b,same", *rows, row]) + "\n")
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path / "pairs.csv")


def test_two_people_of_one_name_are_refused(tmp_path):
    text = lfw(tmp_path, 10, 3, ["Ann_Lee", "Bo_Ek"]).replace("Ann_Lee\t1\tBo_Ek\t2", "Ann_Lee\t1\tAnn_Lee\t2", 1)
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(DataError, match="line 5: two people of one name"):
        open_dataset(tmp_path / "pairs.txt")
