"""What a run would do otherwise than configured: anchors counted from the plan, rates of zero, people left out."""

import io
import pickle

import numpy as np
import pytest
import yaml
from PIL import Image

from rtool.cli import main
from rtool.converters.records.preprocessing import Preprocessing
from rtool.errors import ConfigError, DataError
from rtool.finetune.config.files import load_config
from rtool.finetune.data.dataset import ArrayImages, Dataset
from rtool.finetune.data.selection.partners import with_partners
from rtool.finetune.finetuning import finetune
from rtool.finetune.training.planning import plan_run
from rtool.finetune.training.prepared_data import open_training_data
from rtool.finetune.training.review import anchor_counts


def test_anchors_are_images_with_a_partner_beside_another_identity():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, (200, 7))
    labels[0] = 3
    expected = []
    for row in labels:
        one_kind = len(set(row)) == 1
        expected.append(0 if one_kind else sum((row == label).sum() > 1 for label in row))
    assert anchor_counts(labels).tolist() == expected


def people(tmp_path, images: dict[int, int]):
    """A folder with so many images of each person, and its held-out twin with six images each of four others."""
    rng = np.random.default_rng(0)
    for root, counts in (("train", images), ("test", dict.fromkeys(range(4), 6))):
        for person, count in counts.items():
            folder = tmp_path / root / f"{root}{person:04d}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (32, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return str(tmp_path / "train"), str(tmp_path / "test")


@pytest.fixture
def recipe(tmp_path):
    """A configuration file over a folder of people, with some sections changed."""

    def write(images: dict[int, int], **sections: object):
        train, test = people(tmp_path, images)
        base = {
            "output": str(tmp_path / "runs"),
            "epochs": 1,
            "model": {"reference": "osnet_x0_25", "size": [32, 16]},
            "losses": [{"kind": "softmax"}],
            "tracking": {"tensorboard": False},
            "evaluation": {"protocol": "verification"},
        }
        data = {"train": train, "evaluate": test, "batch": 8, **sections.pop("data", {})}
        path = tmp_path / "c.yaml"
        path.write_text(yaml.safe_dump({**base, **sections, "data": data}))
        return path

    return write


@pytest.mark.parametrize("kind", ["triplet", "circle_pair", "multi_similarity", "contrastive"])
def test_a_loss_over_pairs_without_a_pair_in_the_epoch_is_refused(recipe, kind):
    path = recipe(dict.fromkeys(range(24), 1), losses=[{"kind": kind}, {"kind": "softmax"}])
    with pytest.raises(ConfigError, match=rf"losses: {kind} compares .* no batch of the first epoch \(3 of 8 images\)"):
        plan_run(load_config(path))
    with pytest.raises(ConfigError, match=r"set data\.sampler=pk"):
        finetune(path, quiet=True)


def test_a_loss_that_few_images_feed_is_named_with_the_share(recipe):
    path = recipe({**dict.fromkeys(range(100), 1), **dict.fromkeys(range(100, 106), 4)}, losses=[{"kind": "triplet"}])
    config = load_config(path)
    train, _ = open_training_data(config, Preprocessing(32, 16))
    (note,) = plan_run(config).notes
    order = np.random.default_rng([0, 0]).permutation(124)[:120].reshape(15, 8)  # the plan of seed 0, epoch 0
    counts = anchor_counts(train.identities[order])
    assert f"triplet is fed by {counts.mean() / 8:.1%} of the images" in note
    assert f"{np.count_nonzero(counts)} of 15 batches have any" in note
    assert plan_run(load_config(path, ["data.sampler=pk"])).notes[-1:] != (note,)


def test_people_whom_pk_drops_are_left_out_of_every_count(recipe):
    images = {**dict.fromkeys(range(30), 1), **dict.fromkeys(range(30, 40), 3)}
    path = recipe(images, data={"sampler": "pk", "batch": 8}, losses=[{"kind": "softmax"}, {"kind": "triplet"}])
    plan = plan_run(load_config(path))
    assert (plan.train_images, plan.train_identities) == (30, 10)
    assert plan.head_parameters == 10 * (512 + 1)
    assert any("30 identities with one image left out" in note for note in plan.notes)
    run = finetune(path, quiet=True).run_dir
    log = (run / "log.txt").read_text()
    assert "30 images of 10 identities" in log
    assert "30 identities with one image left out" in log
    assert plan_run(load_config(path, ["data.sampler=random"])).train_identities == 40


def test_people_with_few_images_are_left_out_as_asked(recipe):
    images = {**dict.fromkeys(range(6), 2), **dict.fromkeys(range(6, 16), 5)}
    path = recipe(images, data={"batch": 8, "min_images": 3}, losses=[{"kind": "softmax"}])
    plan = plan_run(load_config(path))
    assert (plan.train_images, plan.train_identities, plan.head_parameters) == (50, 10, 10 * (512 + 1))
    assert any(
        "6 identities of 12 images left out, for they have fewer than data.min_images 3" in n for n in plan.notes
    )
    with pytest.raises(DataError, match=r"no identity has data\.min_images 6 images; the most is 5"):
        plan_run(load_config(path, ["data.min_images=6"]))


def test_nothing_is_left_out_where_all_or_none_have_a_partner():
    def dataset(identities):
        pixels = np.zeros((len(identities), 2, 2, 3), dtype=np.uint8)
        labels = np.array(identities)
        return Dataset("d", ArrayImages(pixels), labels, np.zeros_like(labels), [str(n) for n in identities])

    for identities in ([0, 0, 1, 1], [0, 1, 2]):
        assert with_partners(dataset(identities)).notes == ()
    kept = with_partners(dataset([0, 1, 1, 2, 3, 3]))
    assert kept.identities.tolist() == [0, 0, 1, 1]
    assert list(kept.names) == ["1", "1", "3", "3"]


def test_rates_of_zero_for_all_that_learns_are_refused(recipe):
    data = {"sampler": "pk", "batch": 8}
    optimizer = {"lr_multipliers": {"*": 0.0}}
    path = recipe(dict.fromkeys(range(8), 4), data=data, losses=[{"kind": "triplet"}], optimizer=optimizer)
    with pytest.raises(ConfigError, match=r"optimizer\.lr_multipliers: '\*' hold the rate of the whole network at 0"):
        plan_run(load_config(path))
    plan_run(load_config(path, ["losses+={kind: softmax}"]))  # a classifier learns
    plan_run(load_config(path, ["optimizer.lr_multipliers.fc*=1"]))


def test_multipliers_of_nothing_that_learns_are_named(recipe):
    optimizer = {"lr_multipliers": {"conv2": 0.5, "conv?": 2.0}}  # the last match counts
    path = recipe(dict.fromkeys(range(8), 4), optimizer=optimizer)
    assert any("'conv2' matches only parameters" in note for note in plan_run(load_config(path)).notes)
    path.write_text(path.read_text().replace("conv?: 2.0", "conv3: 2.0"))
    assert not plan_run(load_config(path)).notes
    notes = plan_run(load_config(path, ["model.freeze={conv3: null}"])).notes
    assert any("'conv3' matches only parameters that never train" in note for note in notes)


def test_pairs_to_verify_are_no_training_data(tmp_path, recipe):
    pixels = np.zeros((32, 16, 3), dtype=np.uint8)
    images = []
    for number in range(40):
        file = io.BytesIO()
        Image.fromarray(pixels + np.uint8(number)).save(file, "PNG")
        images.append(file.getvalue())
    (tmp_path / "v.bin").write_bytes(pickle.dumps((images, [n % 2 == 0 for n in range(20)]), 2))
    path = recipe(dict.fromkeys(range(8), 4), data={"train": str(tmp_path / "v.bin")})
    with pytest.raises(DataError, match=r"v\.bin: pairs to verify, not people to learn from.*data\.evaluate"):
        plan_run(load_config(path))
    plan_run(load_config(path, [f"data.train={tmp_path / 'train'}", f"data.evaluate={tmp_path / 'v.bin'}"]))


def test_settings_without_effect_stand_in_the_log_the_plan_and_the_check(recipe, capsys):
    path = recipe(
        dict.fromkeys(range(8), 4),
        optimizer={"momentum": 0.5, "ema": 0.999},
        schedule={"milestones": [0.5], "warmup_epochs": 5},
    )
    starts = ("optimizer.momentum 0.5", "optimizer.ema 0.999", "schedule.milestones [0.5]", "schedule.warmup_epochs 5")
    notes = plan_run(load_config(path)).notes
    assert [any(note.startswith(start) for note in notes) for start in starts] == [True] * 4
    log = (finetune(path, quiet=True).run_dir / "log.txt").read_text()
    assert all(f"note: {start}" in log for start in starts)
    assert main.run(["finetune", str(path), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert all(start in shown for start in starts)
    assert main.run(["config", "check", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "optimizer.momentum 0.5" in shown
    assert "optimizer.ema" not in shown  # needs the number of steps
