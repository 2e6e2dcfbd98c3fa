"""Counted ranks against a stable sort, one query and one gallery image at a time."""

import numpy as np
import pytest

from rtool.finetune.evaluation import cores
from rtool.finetune.evaluation.ranks import hit_ranks
from rtool.finetune.evaluation.ranks.hit_ranks import Matches, find_hit_ranks


def by_sorting(distances, qid, gid, qcam, gcam):
    """Hits, first rank, AP and INP of each query from a list sorted by distance, then by place in the gallery."""
    rows = []
    for query in range(len(distances)):
        kept = []
        for place in sorted(range(len(gid)), key=lambda g: (distances[query][g], g)):
            if gid[place] == qid[query] and gcam[place] == qcam[query] and qcam[query] >= 0:
                continue
            kept.append(bool(gid[place] == qid[query]))
        ranks = [rank for rank, hit in enumerate(kept, 1) if hit]
        if not ranks:
            rows.append((0, 0, 0.0, 0.0))
            continue
        precision = sum(number / rank for number, rank in enumerate(ranks, 1)) / len(ranks)
        rows.append((len(ranks), ranks[0] - 1, precision, len(ranks) / ranks[-1]))
    return rows


def drawn(kind, rng):
    queries, gallery, people, cameras = 12, 90, 4, 3
    qid, gid = rng.integers(0, people, queries), rng.integers(-1, people, gallery)
    qcam, gcam = rng.integers(0, cameras, queries), rng.integers(0, cameras, gallery)
    distances = rng.normal(size=(queries, gallery)).astype("f4")
    if kind == "ties":
        distances = distances.round(0)
    elif kind == "all equal":
        distances[:] = 0.5
    elif kind == "signed zeros":
        distances = np.where(rng.random(distances.shape) < 0.5, np.float32(0.0), np.float32(-0.0))
    elif kind == "junk only":
        qcam[:], gcam[:] = 1, 1
    elif kind == "no match":
        qid = qid + people
    elif kind == "unknown cameras":
        qcam[:], gcam[:] = -1, -1
    elif kind == "float64":
        distances = distances.astype("f8")
    return distances, qid, gid, qcam, gcam


@pytest.mark.parametrize("few", [0, 1000], ids=["by binary search", "by passes"])
@pytest.mark.parametrize(
    "kind",
    ["plain", "ties", "all equal", "signed zeros", "junk only", "no match", "unknown cameras", "float64"],
)
def test_counts_what_a_stable_sort_gives(kind, few, monkeypatch):
    monkeypatch.setattr(hit_ranks, "_FEW", few)
    monkeypatch.setattr(cores, "_CELLS", 400)  # blocks of four queries
    for seed in range(5):
        distances, *labels = drawn(kind, np.random.default_rng(seed))
        found = find_hit_ranks(lambda rows, d=distances: d[rows], *distances.shape, Matches(*labels))
        got = zip(found.hits, found.first, found.average_precision, found.inverse_negative, strict=True)
        np.testing.assert_allclose(list(got), by_sorting(distances, *labels), atol=1e-12)
    assert found.measured.any() == (kind not in ("junk only", "no match"))


def test_progress_is_told_block_by_block(monkeypatch):
    monkeypatch.setattr(cores, "_CELLS", 400)
    distances, *labels = drawn("plain", np.random.default_rng(0))
    told = []
    find_hit_ranks(lambda rows: distances[rows], 12, 90, Matches(*labels), lambda *call: told.append(call))
    assert told == [("ranking queries", done, 12) for done in (4, 8, 12)]
