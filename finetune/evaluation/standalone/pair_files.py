"""What a pair evaluation leaves: result.json, roc.csv and, where it is asked, a matrix of similarities."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....converters.files.atomic_file import write_atomically
from ....errors import ConfigError, InputError
from ..pairs.receiver_curve import ReceiverCurve
from ..pairs.true_accepts import ScoredPairs
from ..pairs.verification import VerificationResult
from .pair_evaluation import MeasuredPairs

__all__ = ["rate_text", "result_values", "verification_rates", "write_pair_files", "write_similarity"]

_BINS = 50


def result_values(measured: MeasuredPairs) -> dict[str, Any]:
    """What result.json says of one set: by score its figures, rates at each FAR, and counts of a histogram."""
    result = measured.result
    values: dict[str, Any] = {
        "pairs": "listed" if measured.listed else "all unordered pairs of images",
        "masks": str(measured.settings.masks),
        "scores": {
            name: _score_values(each, result.many[name], measured.settings.fars)
            for name, each in result.results.items()
        },
    }
    if result.weights is not None:
        values["combined"] = {
            "weights": dict(zip(("embedding", "matcher"), result.weights, strict=True)),
            "fallback": result.fallback,
            "fallback_folds": result.fallback_folds,
        }
    return values


def verification_rates(scored: ScoredPairs, fars: Sequence[float]) -> dict[str, dict[str, Any]]:
    """By FAR: the largest TAR (`vr`) at a FAR no higher, its threshold, and how many impostors may pass; or why not."""
    curve = ReceiverCurve(scored.scores, scored.is_same)
    rates: dict[str, dict[str, Any]] = {}
    for far in fars:
        entry: dict[str, Any] = {"vr": None, "impostor_pairs": scored.different}
        if scored.resolves(far):
            entry |= {
                "vr": curve.true_accept_rate(far),
                "threshold": float(curve.threshold(far)) if np.isfinite(curve.threshold(far)) else None,
                "impostors_that_may_pass": int(far * scored.different * (1 + 1e-12)),
            }
        else:
            entry["why"] = f"too few impostors: {scored.different:,} pairs, {round(1 / far):,} are needed"
        rates[rate_text(far)] = entry
    return rates


def rate_text(far: float) -> str:
    """1e-3, 5e-4, 0.25."""
    text = f"{far:.0e}".replace("e-0", "e-").replace("e+00", "")
    return text if float(text) == far and far <= 0.1 else f"{far:g}"


def write_pair_files(folder: Path, sets: Mapping[str, MeasuredPairs], stated: Mapping[str, Any]) -> None:
    """Write result.json and roc.csv of one or several sets into a folder.

    Args:
        folder: Where they go.
        sets: What was measured, by name; a single one may be named "".
        stated: Facts of the model that stand beside the figures.

    Raises:
        InputError: they cannot be written.
    """
    values = {name: result_values(each) for name, each in sets.items()}
    joined = {**values[""], **stated} if list(values) == [""] else {"sets": values, **stated}
    write_atomically(folder / "result.json", (json.dumps(joined, indent=2) + "\n").encode())
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(("set", "score", "far", "tar"))
    for name, each in sets.items():
        for score, scored in each.result.many.items():
            points = ReceiverCurve(scored.scores, scored.is_same).points()
            rows.writerows((name, score, *point) for point in points)
    write_atomically(folder / "roc.csv", text.getvalue().encode())


def write_similarity(path: Path, measured: MeasuredPairs) -> None:
    """Write the matrices of similarities as .npy: float32 [scores, N, N], in the order of the scores.

    Row i and column j are image i as the first and image j as the second of a pair; NaN where that pair was not scored:
    on the diagonal and, where masks are drawn on one side, below it.

    Raises:
        ConfigError: the pairs are listed ones, which make no matrix.
        InputError: the file cannot be written.
    """
    if measured.listed:
        raise ConfigError(f"--similarity {path}: {measured.images.dataset.name} lists its pairs, which make no matrix")
    count = len(measured.images.dataset)
    matrices = np.full((len(measured.result.many), count, count), np.nan, dtype=np.float32)
    first, second = measured.result.images.T
    for matrix, scored in zip(matrices, measured.result.many.values(), strict=True):
        matrix[first, second] = scored.scores
        if not measured.settings.masks.share or measured.settings.masks.side == "both":
            matrix[second, first] = scored.scores
    try:
        with path.open("wb") as file:
            np.save(file, matrices)
    except OSError as error:
        raise InputError(f"--similarity {path}: cannot be written: {error.strerror}") from error


def _score_values(result: VerificationResult, scored: ScoredPairs, fars: Sequence[float]) -> dict[str, Any]:
    same, different, edges = _histogram(scored.scores, scored.is_same)
    return {
        "genuine": scored.same,
        "impostor": scored.different,
        "accuracy": result.accuracy,
        "accuracy_std": result.accuracy_std,
        "auc": result.auc,
        "eer": result.eer,
        "vr_at_far": verification_rates(scored, fars),
        "histogram": {"edges": edges, "genuine": same, "impostor": different},
    }


def _histogram(scores: NDArray[np.floating], is_same: NDArray[np.bool_]) -> tuple[list[int], list[int], list[float]]:
    """Counts of genuine and of impostor pairs in equal bins, and the edges of these."""
    low, high = float(scores.min()), float(scores.max())
    edges = np.linspace(low, high if high > low else low + 1e-6, _BINS + 1)
    same, different = (np.histogram(scores[chosen], edges)[0].tolist() for chosen in (is_same, ~is_same))
    return same, different, edges.tolist()
