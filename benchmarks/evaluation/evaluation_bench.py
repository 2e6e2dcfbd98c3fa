"""`make bench-evaluate`: speed and memory of the evaluation beside the usual forms, and how often intervals hold.

    retrieval   Market-1501's size, 512 numbers an image: CMC, mAP and mINP, ours beside two usual forms
    rerank      k-reciprocal re-ranking at that size, beside the published loops; peak memory of a process of its own
    scale       retrieval over 100,000 gallery images, verification over 15 million pairs
    intervals   1,000 simulated sets: how many 95 % intervals hold the truth

Wall time is the least of the rounds; processor time of user and system stands beside it, for the machine may be shared.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ...finetune.evaluation.pairs.verification import measure_verification
from ...finetune.evaluation.ranks.hit_ranks import Matches, find_hit_ranks
from ...finetune.evaluation.ranks.ranking import COSINE, Ranking
from ...finetune.evaluation.ranks.reranking import RerankedDistances
from ...finetune.evaluation.ranks.retrieval import measure_retrieval
from ..machine import describe_machine
from ..places import RESULTS
from .interval_coverage import measure_coverage
from .measured_process import in_own_process, measured
from .simulated_people import RetrievalSet, simulated_retrieval
from .usual_forms import classic_reranking, sorted_with_arrays, sorted_with_lists

__all__ = ["main"]

_QUERIES, _GALLERY = 3_368, 15_913
"""Images of Market-1501."""


def ours(data: RetrievalSet, ranking: Ranking = COSINE) -> dict[str, float]:
    """mAP, rank-1 and mINP by `measure_retrieval`."""
    result = measure_retrieval(
        data.query,
        data.gallery,
        data.query_ids,
        data.gallery_ids,
        data.query_cameras,
        data.gallery_cameras,
        ranking=ranking,
    )
    return {"mAP": result.mAP, "rank1": result.rank1, "mINP": result.mINP}


def bench_retrieval(rounds: int) -> dict[str, Any]:
    """CMC, mAP and mINP of ours and of both usual forms, in turns."""
    data = simulated_retrieval(_QUERIES, _GALLERY)
    forms: dict[str, Callable[[], dict[str, float]]] = {
        "ours": lambda: ours(data),
        "sorted with arrays": lambda: sorted_with_arrays(data),
    }
    rows = {name: measured(forms[name], rounds) for name in forms}
    rows["sorted with lists"] = measured(lambda: sorted_with_lists(data, 1 - data.query @ data.gallery.T), 1)
    least = rows["ours"]["wall_seconds"]
    return {"queries": _QUERIES, "gallery": _GALLERY, "numbers": 512, "forms": rows} | {
        "times_faster": {name: round(row["wall_seconds"] / least, 1) for name, row in rows.items() if name != "ours"}
    }


def bench_rerank(rounds: int) -> dict[str, Any]:
    """Re-ranking by ours and by the published loops, each in a process of its own; and whether ranks are equal."""
    del rounds
    own, usual = in_own_process(_rerank_ours), in_own_process(_rerank_classic)
    ours_, theirs = (np.load(row.pop("array")) for row in (own, usual))
    data = simulated_retrieval(_QUERIES, _GALLERY)
    matches = Matches(data.query_ids, data.gallery_ids, data.query_cameras, data.gallery_cameras)
    ranks = [find_hit_ranks(rows.__getitem__, _QUERIES, _GALLERY, matches) for rows in (ours_, theirs)]
    in_our_order = np.take_along_axis(theirs, np.argsort(ours_, axis=1, kind="stable"), 1)
    return {
        "forms": {"ours": own, "published loops": usual},
        "times_faster": round(usual["wall_seconds"] / own["wall_seconds"], 1),
        "queries_with_equal_precision": int((ranks[0].average_precision == ranks[1].average_precision).sum()),
        "largest_average_precision_difference": float(
            np.abs(ranks[0].average_precision - ranks[1].average_precision).max()
        ),
        # Where an order differs, the published distances do by so much at most. It is more than a rounding where the
        # k-th neighbours of an image are nearer to each other than float32 resolves: either may be among its k.
        "largest_inversion": float(np.maximum(0, in_our_order[:, :-1] - in_our_order[:, 1:]).max()),
    }


def _rerank_ours() -> np.ndarray[Any, np.dtype[np.float32]]:
    data = simulated_retrieval(_QUERIES, _GALLERY)
    return RerankedDistances(data.query, data.gallery).of(slice(0, _QUERIES))


def _rerank_classic() -> np.ndarray[Any, np.dtype[np.float32]]:
    data = simulated_retrieval(_QUERIES, _GALLERY)
    return classic_reranking(data.query, data.gallery)


def bench_scale(rounds: int) -> dict[str, Any]:
    """Retrieval over 100,000 images and verification over 15 million pairs, each in a process of its own."""
    del rounds
    return {"retrieval": in_own_process(_large_retrieval), "verification": in_own_process(_many_pairs)}


def _large_retrieval() -> dict[str, Any]:
    data = simulated_retrieval(2_000, 100_000, people=5_000)
    return {"queries": 2_000, "gallery": 100_000, **ours(data)}


def _many_pairs() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    people, images, pairs = 3_500, 23_000, 15_000_000
    identities = rng.integers(0, people, images)
    embeddings = rng.normal(size=(people, 512))[identities] + 2.5 * rng.normal(size=(images, 512))
    chosen = rng.integers(0, images, (pairs, 2))
    order = np.argsort(identities, kind="stable")
    alike = order[rng.integers(0, images - 1, 20_000)[:, None] + np.array([0, 1])]  # neighbours are mostly one person
    chosen[: len(alike)] = alike
    rng.shuffle(chosen)
    listed = np.column_stack([chosen, identities[chosen[:, 0]] == identities[chosen[:, 1]]])
    result = measure_verification(embeddings.astype(np.float32), identities, listed, known_identities=False)
    return {"pairs": result.pairs, "accuracy": result.accuracy, "tar_at_far_1e6": result.tar_at_far_1e6}


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "retrieval": bench_retrieval,
    "rerank": bench_rerank,
    "scale": bench_scale,
    "intervals": lambda rounds: measure_coverage(1_000),  # noqa: ARG005 - every part is given the rounds
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts that are named, or all, and write the dated file."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.evaluation.evaluation_bench", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the dated file")
    options = parser.parse_args(arguments)
    now = datetime.now(UTC)
    path = options.results / f"{now:%Y-%m-%d}-evaluation.json"
    document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    document |= {"date": now.isoformat(timespec="seconds"), "machine": describe_machine()}
    for name in options.parts or PARTS:
        found = PARTS[name](options.rounds)
        document["parts"][name] = found | {"load_average": round(os.getloadavg()[0], 2)}
        path.write_text(json.dumps(document, indent=1) + "\n")
        sys.stdout.write(f"{name}: {json.dumps(found, indent=1)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
