"""The same image twice: found by content, kept from meeting itself, counted; under two identities, refused."""

import numpy as np
import pytest
from PIL import Image

from rtool.errors import DataError
from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.evaluation.evaluation import evaluate_embeddings


def noise(root, people=30, images=4):
    """Pure noise: there is nothing to recognise."""
    rows = []
    for person in range(people):
        for number in range(images):
            pixels = np.random.default_rng([person, number]).integers(0, 256, (16, 8, 3), dtype=np.uint8)
            (root / f"p{person}").mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / f"p{person}" / f"{number}.png")
            rows.append((f"p{person}/{number}.png", f"p{person}"))
    return rows


def embed(pixels):
    return pixels.reshape(len(pixels), -1).astype("f4") - 127.5


def measure(data, protocol=None):
    lines = []
    result = evaluate_embeddings(
        embed, open_dataset(data), protocol, resize=np.asarray, flip=False, report=lines.append
    )
    return result, lines


def test_copies_in_a_folder_are_left_out_and_counted(tmp_path):
    noise(tmp_path)
    once, lines = measure(tmp_path)
    assert lines == []
    for path in list(tmp_path.glob("*/*.png")):
        path.with_name(f"{path.stem} (1).png").write_bytes(path.read_bytes())
    twice, lines = measure(tmp_path)
    assert twice.rank1 == once.rank1 < 0.2
    assert twice.accuracy < 0.7
    assert lines == [f"{tmp_path}: 120 copies of other images, by content, left out of the match, such as p0/0.png"]


def test_a_copy_in_another_format_is_the_same_image(tmp_path):
    noise(tmp_path)
    with Image.open(tmp_path / "p0" / "0.png") as image:
        image.save(tmp_path / "p0" / "again.bmp")
    assert "1 copies of other images" in measure(tmp_path)[1][0]


def test_lines_of_a_manifest_that_repeat_an_image_are_left_out(tmp_path):
    rows = noise(tmp_path)
    for name, listed in (("once", rows), ("twice", rows + rows)):
        (tmp_path / f"{name}.csv").write_text("path,identity\n" + "".join(f"{a},{b}\n" for a, b in listed))
    assert measure(tmp_path / "twice.csv")[0] == measure(tmp_path / "once.csv")[0]
    assert open_dataset(tmp_path / "twice.csv").notes == ("120 lines left out: their images are listed before",)


def test_the_same_image_under_two_identities_is_refused_and_both_are_named(tmp_path):
    noise(tmp_path)
    (tmp_path / "p7" / "mine.png").write_bytes((tmp_path / "p3" / "2.png").read_bytes())
    with pytest.raises(DataError, match=r"p3/2.png and p7/mine.png are the same image under two identities"):
        measure(tmp_path)


def retrieval(tmp_path, copy_camera):
    """Each person seen by cameras 0 and 1; the query of camera 0 is in the gallery again under `copy_camera`."""
    rows = [(path, name, number % 2, number == 0) for number, (path, name) in enumerate(noise(tmp_path)) if number >= 0]
    rows = [(path, name, int(path[-5]) % 2, int(path[-5]) == 0) for path, name, _, _ in rows]
    copies = []
    for path, name, _, is_query in rows:
        if is_query:
            copy = path.replace("0.png", "copy.png")
            (tmp_path / copy).write_bytes((tmp_path / path).read_bytes())
            copies.append((copy, name, copy_camera, False))
    for name, listed in (("plain", rows), ("copied", rows + copies)):
        text = "".join(f"{path},{person},{camera},{int(query)}\n" for path, person, camera, query in listed)
        (tmp_path / f"{name}.csv").write_text("path,identity,camera,query\n" + text)
    return measure(tmp_path / "plain.csv"), measure(tmp_path / "copied.csv")


def test_a_query_does_not_find_its_own_copy_under_another_camera(tmp_path):
    (plain, _), (copied, lines) = retrieval(tmp_path, 1)
    assert copied == plain
    assert lines[0].endswith("30 copies of queries, by content, left out of the gallery, such as p0/copy.png")


def test_a_copy_under_the_same_camera_is_left_to_the_rule_of_the_protocol(tmp_path):
    """VeRi-776 lists every query in its gallery; the rule drops it for that query."""
    (plain, _), (copied, lines) = retrieval(tmp_path, 0)
    assert lines == []
    assert copied.gallery == plain.gallery + 30
    assert copied.rank1 < 0.2
