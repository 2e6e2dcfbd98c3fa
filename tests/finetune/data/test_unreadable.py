"""Images that cannot be read while they are decoded at each use: replaced, counted, named, on whatever process."""

import io

import numpy as np
import pytest
from PIL import Image

from rtool.errors import DataError
from rtool.finetune.config.config import AugmentConfig
from rtool.finetune.data.dataset import Dataset
from rtool.finetune.data.image_files import EncodedImages
from rtool.finetune.data.loading import EpochSamples, TrainingPixels, iterate_batches
from rtool.finetune.data.samplers import plan_epoch
from rtool.finetune.finetuning import finetune


def dataset(identities: list[int], broken: set[int]) -> Dataset:
    """One-coloured images; image i has the value i."""
    contents = []
    for index in range(len(identities)):
        buffer = io.BytesIO()
        Image.new("L", (4, 4), index).save(buffer, "PNG")
        contents.append(b"" if index in broken else buffer.getvalue())
    names = tuple(f"i{index}" for index in range(len(identities)))
    cameras = np.full(len(identities), -1)
    return Dataset("d", EncodedImages(len(identities), contents.__getitem__), np.array(identities), cameras, names)


def with_channel(image: Image.Image) -> np.ndarray:
    return np.asarray(image)[..., None]


def one_batch(data: Dataset, indices: list[int], workers: int = 0):
    samples = EpochSamples(TrainingPixels(data, with_channel, None), AugmentConfig(flip=0), (0.0,), 0, 0)
    (batch,) = iterate_batches(samples, np.array([indices]), slice(None), workers)
    return batch.pixels[:, 0, 0, 0].tolist(), batch.labels.tolist(), batch.unreadable


@pytest.mark.parametrize(
    ("identities", "broken", "wanted", "expected"),
    [
        ([0, 0, 1, 1], {2}, 2, ([3, 0], [1, 0], (2,))),
        ([0, 0, 1, 1], {3}, 3, ([2, 0], [1, 0], (3,))),
        ([0, 0, 1, *[2] * 200], {2}, 2, ([3, 0], [2, 0], (2,))),  # the only one of its identity
        ([0, 0, 1, 1, *[2] * 200], {2, 3}, 3, ([4, 0], [2, 0], (3, 2))),
    ],
)
def test_an_image_is_replaced_by_one_of_its_identity_or_else_by_the_next(identities, broken, wanted, expected):
    assert one_batch(dataset(identities, broken), [wanted, 0]) == expected


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_of_them_stop_with_the_message_alone_in_workers_too(workers):
    data = dataset([0, 0, 1, *range(2, 20)], {2, 3})
    with pytest.raises(DataError, match=r"^d: 1 of 21 images cannot be read \(i2\); at most 1% is tolerated") as raised:
        one_batch(data, [2, 0], workers)
    assert "Traceback" not in str(raised.value)


def test_labels_are_looked_through_only_where_an_image_fails():
    class Unsearchable(np.ndarray):
        def __eq__(self, other):
            raise AssertionError("searched")

    data = dataset([0, 0, 1, 1], set())
    object.__setattr__(data, "identities", data.identities.view(Unsearchable))
    assert one_batch(data, [2, 0]) == ([2, 0], [1, 0], ())


@pytest.mark.slow
def test_what_another_process_could_not_read_is_named_in_the_log(tmp_path, write_recipe):
    folder = tmp_path / "data"
    for number in range(208):
        path = folder / f"p{number % 8}" / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 32), (number,) * 3).save(path)
    recipe = write_recipe(steps_per_epoch=2)
    changes = [f"data.train={folder}", "data.memory_gb=0", "data.batch=4", "evaluation.protocol=verification"]
    labels = np.repeat(np.arange(8), 26)
    plan = plan_epoch("random", labels, labels, batch=4, images_per_identity=4, ranks=2, seed=0, epoch=0)
    broken = int(plan[0, 7])  # of the second process
    path = folder / f"p{broken // 26}" / f"{broken // 26 + 8 * (broken % 26):03d}.jpg"
    path.write_bytes(b"")
    result = finetune(recipe, changes, nproc=2, quiet=True)
    log = (result.run_dir / "log.txt").read_text()
    assert log.count(f"unreadable image replaced by another: {path.relative_to(folder)}") == 1
