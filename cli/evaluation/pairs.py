"""The options of `rtool evaluate` that compare pairs by several scores, with masks drawn on some images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ...errors import ConfigError

if TYPE_CHECKING:
    from ...finetune.config.choices import Score
    from ...finetune.embedding.embedders import Embedder
    from ...finetune.evaluation.measuring import Measured
    from ...finetune.evaluation.model_sets import EvaluationSettings
    from ...finetune.evaluation.scores.combining import Combination
    from ...finetune.evaluation.scores.pair_matching import PairMatcher
    from ...finetune.evaluation.standalone.pair_evaluation import MeasuredPairs, PairSettings

__all__ = ["asks_for_pairs", "combination_of", "measured_pairs", "pair_options", "pair_options_of", "pair_settings"]

F = TypeVar("F", bound=Callable[..., Any])

_FITTED = "fitted"
_NAMES = frozenset(
    (
        "scores",
        "weights_of_scores",
        "far",
        "masked",
        "side",
        "mask_kinds",
        "mask_seed",
        "mask_points",
        "similarity",
    )
)
_KINDS = ("medical", "sunglasses", "scarf", "hand", "block")


def pair_options(command: F) -> F:
    """Add options whose values reach the command in one mapping, `asked`."""
    for option in reversed(
        (
            click.option(
                "--scores",
                metavar="A,B",
                help="Compare all pairs of images by embedding, matcher and combined, or some of them.",
            ),
            click.option(
                "--weight",
                "weights_of_scores",
                multiple=True,
                metavar="SCORE=W",
                help="Weight of embedding and of matcher in the combined score (0.5 each), or 'fitted'.",
            ),
            click.option(
                "--far", metavar="A,B", help="False accept rates at which the verification rate is stated. [1e-3,1e-4]"
            ),
            click.option("--masked", type=float, metavar="P", help="Draw masks on this share of one side's images."),
            click.option(
                "--side",
                type=click.Choice(["first", "second", "both"]),
                default="second",
                show_default=True,
                help="Which images of pairs get masks.",
            ),
            click.option(
                "--mask-kind",
                "mask_kinds",
                type=click.Choice(_KINDS),
                multiple=True,
                help="What is drawn, one of several. [medical]",
            ),
            click.option("--mask-seed", type=click.IntRange(0), default=0, show_default=True, help="Seeds the masks."),
            click.option(
                "--mask-points",
                metavar="'X,Y ...'",
                help="Eyes, nose and corners of the mouth in pixels of the input, for faces not aligned to 112x112.",
            ),
            click.option(
                "--similarity",
                type=click.Path(path_type=Path, dir_okay=False),
                metavar="NPY",
                help="Write the matrix of each score, float32 [scores, N, N].",
            ),
        )
    ):
        command = option(command)
    return command


def asks_for_pairs(asked: dict[str, Any]) -> bool:
    """Whether any of the options is given that needs all pairs."""
    return (
        any(asked[name] for name in ("scores", "weights_of_scores", "far", "similarity")) or asked["masked"] is not None
    )


def pair_options_of(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of these options, and all others.

    Raises:
        ConfigError: an option of masks where none are drawn.
    """
    asked = {name: value for name, value in options.items() if name in _NAMES}
    refuse_idle(asked)
    return asked, {name: value for name, value in options.items() if name not in _NAMES}


def measured_pairs(
    asked: dict[str, Any],
    embedder: Embedder,
    reference: str,
    sets: Mapping[str, str],
    settings: EvaluationSettings,
    device: str,
    beside: Mapping[str, Any],
    calls: Mapping[str, Any],
) -> Iterator[tuple[str, Measured, Measured | None, MeasuredPairs | None]]:
    """Measure pairs as the options ask, set by set; writes the matrix of similarities of a single one.

    Args:
        asked: The values of these options.
        embedder, reference, device: The model.
        sets, settings: What is measured, and how.
        beside: Options by name that do not go with these; `--weights` goes with the embedding alone.
        calls: Further arguments of `measure_pair_sets`.

    Raises:
        RtoolError: an option that does not go with these, or as `measure_pair_sets`.
    """
    from ...finetune.evaluation.scores.scoring import ScoreSettings
    from ...finetune.evaluation.standalone.pair_files import write_similarity
    from ...finetune.evaluation.standalone.pair_sets import measure_pair_sets

    scores = _scores_of(asked["scores"])
    alone = scores == ("embedding",)
    if name := next((name for name, given in beside.items() if given and not (alone and name == "--weights")), None):
        raise ConfigError(f"{name}: does not go with --scores, --masked, --far and --similarity; leave it out")
    if asked["similarity"] is not None and len(sets) > 1:
        raise ConfigError(f"--similarity {asked['similarity']}: is of one data set, and {len(sets)} are given")
    combination = combination_of(asked["weights_of_scores"], scores)
    chosen = ScoreSettings(scores, combination, _matcher_of(scores, embedder, reference, device))
    for name, measured, pairs in measure_pair_sets(
        embedder, sets, settings, chosen, pair_settings(asked, reference), **calls
    ):
        if asked["similarity"] is not None:
            write_similarity(asked["similarity"], pairs)
        yield name, measured, None, pairs


def refuse_idle(asked: dict[str, Any]) -> None:
    """Refuse options of masks where none are drawn.

    Raises:
        ConfigError: naming one.
    """
    if asked["masked"]:
        return
    idle = {
        "--side": asked["side"] != "second",
        "--mask-kind": bool(asked["mask_kinds"]),
        "--mask-seed": asked["mask_seed"] != 0,
        "--mask-points": asked["mask_points"] is not None,
    }
    if name := next((name for name, given in idle.items() if given), None):
        raise ConfigError(f"{name}: no masks are drawn; give the share of images with --masked, such as --masked 1")


def _scores_of(text: str | None) -> tuple[Score, ...]:
    """The scores that `--scores` names.

    Raises:
        ConfigError: an unknown one.
    """
    from ...finetune.evaluation.scores.score_results import EMBEDDING_ALONE, SCORES, check_scores

    if text is None:
        return EMBEDDING_ALONE
    words = [word.strip() for word in text.split(",") if word.strip()]
    check_scores(words, matcher=True, setting="--scores")
    return tuple(score for word in words for score in SCORES if score == word)


def _matcher_of(scores: tuple[Score, ...], embedder: Embedder, reference: str, device: str) -> PairMatcher | None:
    """The matcher of the model where a score needs one, and where it has one."""
    if scores == ("embedding",):
        return None
    from ...finetune.matching.opening import open_matcher

    return open_matcher(reference, embedder.preprocessing, device)


def combination_of(words: tuple[str, ...], scores: tuple[str, ...]) -> Combination:
    """What `--weight` says.

    Raises:
        ConfigError: an unknown score, a negative weight or no number, only zeros, or no combined score asked.
    """
    from ...finetune.evaluation.scores.combining import EVEN, Combination

    if not words:
        return EVEN
    if "combined" not in scores:
        raise ConfigError(f"--weight {words[0]}: weighs the combined score; add it to --scores")
    if words == (_FITTED,):
        return Combination(fitted=True)
    weights = {"embedding": EVEN.embedding, "matcher": EVEN.matcher}
    given = set()
    for word in words:
        name, _, value = word.partition("=")
        if name not in weights or name in given:
            raise ConfigError(f"--weight {word}: give embedding=W and matcher=W, each once, or fitted alone")
        given.add(name)
        try:
            weights[name] = float(value)
        except ValueError as error:
            raise ConfigError(f"--weight {word}: '{value}' is not a number") from error
        if not 0 <= weights[name] < float("inf"):
            raise ConfigError(f"--weight {word}: weights are numbers from 0")
    if not any(weights.values()):
        raise ConfigError("--weight: both are 0, so nothing would be scored")
    return Combination(weights["embedding"], weights["matcher"])


def pair_settings(asked: dict[str, Any], reference: str) -> PairSettings:
    """Masks and false accept rates; faces lie where the configuration of a run states, unless an option does.

    Raises:
        ConfigError: a value that cannot be.
    """
    from ...finetune.evaluation.standalone.masked_images import MaskSettings, parse_points
    from ...finetune.evaluation.standalone.pair_evaluation import FARS, PairSettings

    refuse_idle(asked)
    masks = MaskSettings(
        share=asked["masked"] or 0.0,
        side=asked["side"],
        kinds=asked["mask_kinds"] or ("medical",),
        points=_points_of(reference) if asked["mask_points"] is None else parse_points(asked["mask_points"]),
        seed=asked["mask_seed"],
    )
    return PairSettings(masks, FARS if asked["far"] is None else _rates(asked["far"]))


def _points_of(reference: str) -> tuple[tuple[float, float], ...] | None:
    """`augment.mask_points` of the run that is measured; None of another model."""
    from ...finetune.config.files import load_config

    path = Path(reference) / "config.yaml"
    return load_config(path).augment.mask_points if path.is_file() else None


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(",") if word.strip())
    except ValueError as error:
        raise ConfigError(f"--far {text}: give rates such as 1e-3,1e-4") from error
