"""The study trains, measures and sums up; a small one of few steps."""

import numpy as np
import pytest

from rtool.benchmarks.occlusion.masked_faces import drawn_faces
from rtool.benchmarks.occlusion.occlusion_bench import VARIANTS, summary, table
from rtool.benchmarks.occlusion.study import run


@pytest.fixture(scope="module")
def faces():
    return drawn_faces(14, 4, 1, masks=1), drawn_faces(4, 3, 2, masks=1)


def test_masks_hide_a_part_of_each_face(faces):
    train, _ = faces
    assert train.masked.shape == (56, 1, 48, 48, 3)
    hidden = 1 - train.visible.mean() / 255
    assert 0.1 < hidden < 0.5
    seen = train.visible[:, 0] == 255
    assert np.array_equal(train.masked[:, 0][seen], train.clean[seen])


def test_a_run_measures_each_score_on_clean_and_masked_pairs(faces):
    found = run(*faces, VARIANTS["mask"], seed=0, steps=2)
    assert {f"{kind}.{score}" for kind in ("clean", "masked") for score in ("embedding", "matcher", "combined0.5")} <= {
        *found
    }
    assert all(0 <= found[key] <= 1 for key in found if key.startswith("masked."))
    assert "clean.matcher" not in run(*faces, VARIANTS["embedding"], seed=0, steps=1)


def test_gains_are_over_the_embedding_trained_alone_with_the_same_seed():
    def row(seed, clean, masked, **more):
        return {"seed": seed, "clean.embedding": clean, "masked.embedding": masked, **more}

    def both(clean, masked):
        return {"clean.combined0.5": clean, "masked.combined0.5": masked}

    runs = {
        "embedding": [row(0, 0.6, 0.4), row(1, 0.5, 0.3), row(2, 0.7, 0.5)],
        "mask": [
            row(0, 0.6, 0.4, **both(0.62, 0.46)),
            row(1, 0.5, 0.3, **both(0.5, 0.36)),
            row(2, 0.7, 0.5, **both(0.7, 0.56)),
        ],
    }
    found = summary(runs)["mask"]
    assert found["masked_gain"] == {"mean": 0.06, "low": 0.06, "high": 0.06}
    assert found["clean_gain"]["mean"] == pytest.approx(0.0067)
    assert found["passed"]
    assert "+0.060 (+0.060 to +0.060)" in table({"faces": {"drawn": summary(runs)}})
    assert not summary({"embedding": runs["embedding"][:2], "mask": runs["mask"][:2]})["mask"]["passed"]
