"""Plans of batches: who is in them, in which order, the same on every rank."""

import numpy as np
import pytest

from rtool.errors import DataError
from rtool.finetune.data.samplers import plan_epoch, rank_columns

IDENTITIES = np.repeat(np.arange(10), [7, 4, 4, 5, 8, 2, 3, 4, 6, 1])
CAMERAS = np.arange(len(IDENTITIES)) % 2


def plan(sampler="pk", *, batch=8, ranks=1, seed=0, epoch=0, k=4, cameras=CAMERAS):
    return plan_epoch(
        sampler, IDENTITIES, cameras, batch=batch, images_per_identity=k, ranks=ranks, seed=seed, epoch=epoch
    )


def test_random_batches_see_each_image_at_most_once():
    rows = plan("random")
    assert rows.shape == (5, 8)
    assert len(np.unique(rows)) == 40


@pytest.mark.parametrize("sampler", ["pk", "pk_cameras"])
def test_pk_batches_hold_k_images_of_p_identities(sampler):
    for row in plan(sampler):
        counts = np.unique(IDENTITIES[row], return_counts=True)[1]
        assert counts.tolist() == [4, 4]


def test_pk_leaves_out_identities_with_one_image_and_uses_the_others():
    used = set(IDENTITIES[plan().reshape(-1)].tolist())
    assert 9 not in used
    assert len(used) >= 8


def test_camera_balanced_groups_mix_cameras():
    for row in plan("pk_cameras"):
        for group in row.reshape(-1, 4):
            assert len(set(CAMERAS[group])) == 2


def test_two_ranks_share_the_batches_of_one():
    single = plan(batch=8, ranks=1)
    double = plan(batch=4, ranks=2)
    assert (single == double).all()
    parts = [double[:, rank_columns(double, rank, 2)] for rank in range(2)]
    assert (np.concatenate(parts, axis=1) == single).all()
    # and an identity's images stay on one rank
    assert all(len(set(IDENTITIES[row])) == 1 for part in parts for row in part)


def test_epochs_and_seeds_differ_and_repeat():
    assert not np.array_equal(plan(epoch=0), plan(epoch=1))
    assert not np.array_equal(plan(seed=0), plan(seed=1))
    assert np.array_equal(plan(seed=3, epoch=5), plan(seed=3, epoch=5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 64}, "lower data.batch"),
        ({"batch": 10}, "not a multiple"),
        ({"batch": 4}, "one identity, in which no two people differ; set data.batch to 8 or more"),
        ({"sampler": "pk_cameras", "cameras": np.full(len(IDENTITIES), -1)}, "use data.sampler=pk"),
        ({"sampler": "random", "batch": 100}, "do not fill one batch"),
    ],
)
def test_batches_that_cannot_be_filled_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        plan(**options)
