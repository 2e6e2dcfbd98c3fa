"""Pairs scored by embedding, matcher and both: memory by blocks, mirror images, metrics by name."""

import numpy as np
import pytest

from rtool.errors import ConfigError, GateError
from rtool.finetune.data.dataset import UNKNOWN_CAMERA, ArrayImages, Dataset
from rtool.finetune.data.decoding import read_pixels
from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.evaluation.evaluation import evaluate_embeddings, evaluate_pixels
from rtool.finetune.evaluation.measuring import measured_values
from rtool.finetune.evaluation.plan import plan_evaluation
from rtool.finetune.evaluation.scores.combining import Combination
from rtool.finetune.evaluation.scores.pair_matching import match_pairs
from rtool.finetune.evaluation.scores.score_results import check_scores
from rtool.finetune.evaluation.scores.scoring import ScoreSettings, plan_scores
from rtool.finetune.evaluation.several_sets import choose_metric, joined_metrics


class ColumnMatcher:
    """Describes an image by its columns' means; a score is their agreement, which differs for mirror images."""

    def __init__(self):
        self.described = 0
        self.most = 0

    def describe(self, pixels):
        self.described += len(pixels)
        return pixels.mean(axis=(1, 3)) / 255

    def join(self, parts):
        joined = np.concatenate(parts)
        self.most = max(self.most, len(joined))
        return joined

    def take(self, described, rows):
        return described[rows]

    def scores(self, first, second):
        return -np.abs(first - second).mean(axis=1).astype(np.float32)


def embed(pixels):
    return pixels.reshape(len(pixels), -1).astype(np.float32) / 255


PIXELS = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 3), dtype=np.uint8)


def slow_score(one, other, *, flip):
    matcher = ColumnMatcher()
    forms = [PIXELS, PIXELS[:, :, ::-1]] if flip else [PIXELS]
    found = [
        matcher.scores(matcher.describe(first[[one]]), matcher.describe(second[[other]]))[0]
        for first in forms
        for second in forms
    ]
    return np.mean(found)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("images", [7, 512])
def test_each_pair_has_the_mean_score_of_its_four_forms(flip, images):
    rng = np.random.default_rng(1)
    pairs = rng.integers(0, 40, (90, 2))
    matcher = ColumnMatcher()
    scores = match_pairs(matcher, lambda numbers: PIXELS[numbers], pairs, flip=flip, batch=5, images=images)
    np.testing.assert_allclose(scores, [slow_score(*pair, flip=flip) for pair in pairs], atol=1e-6)
    assert matcher.most <= images


def test_pairs_in_order_describe_each_image_once():
    matcher = ColumnMatcher()
    pairs = np.arange(40).reshape(20, 2)
    match_pairs(matcher, lambda numbers: PIXELS[numbers], pairs, flip=True, batch=8, images=10)
    assert matcher.described == 2 * 40
    assert matcher.most == 10


def test_all_pairs_describe_a_block_once_beside_each_earlier_one():
    matcher = ColumnMatcher()
    pairs = np.stack(np.triu_indices(40, 1), axis=1)
    match_pairs(matcher, lambda numbers: PIXELS[numbers], pairs, flip=False, batch=8, images=10)
    assert matcher.described == 10 * (4 + 3 + 2)  # blocks 0 to 3 beside 0, 1 to 3 beside 1, 2 and 3 beside 2


def test_a_score_that_is_not_finite_is_refused():
    class Broken(ColumnMatcher):
        def scores(self, first, second):
            return np.full(len(first), np.nan, np.float32)

    with pytest.raises(GateError, match="20 of 20 scores of the matcher are not finite"):
        match_pairs(Broken(), lambda n: PIXELS[n], np.arange(40).reshape(20, 2), flip=False, batch=8)


def listed(count=40):
    """Pairs of images 2i and 2i + 1, which differ by noise where they are the same."""
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (2 * count, 6, 6, 3)).astype(np.int64)
    same = np.arange(count) % 2 == 0
    noisy = pixels[0::2][same] + rng.normal(0, 60, pixels[0::2][same].shape)
    pixels[1::2][same] = np.clip(noisy, 0, 255)
    return Dataset(
        "pairs",
        ArrayImages(pixels.astype(np.uint8)),
        np.arange(2 * count),
        np.full(2 * count, UNKNOWN_CAMERA),
        tuple(map(str, range(2 * count))),
        pairs=np.stack([np.arange(0, 2 * count, 2), np.arange(1, 2 * count, 2), same.astype(np.int64)], axis=1),
    )


ALL = ("embedding", "matcher", "combined")


def settings(scores=ALL, **combination):
    return ScoreSettings(scores, Combination(**combination), ColumnMatcher())


def test_every_score_has_every_metric_and_the_embedding_keeps_its_own():
    dataset = listed()
    alone = measured_values(evaluate_embeddings(embed, dataset, resize=np.asarray, batch=8))
    values = measured_values(evaluate_embeddings(embed, dataset, resize=np.asarray, batch=8, scores=settings()))
    for name in ("accuracy", "accuracy_std", "auc", "eer", "val_at_far_1e3", "tar_at_far_1e1", "tar_low", "impostors"):
        assert values[f"embedding.{name}"] == alone[name], name
        assert f"matcher.{name}" in values
        assert f"combined.{name}" in values
    assert (values["combined.weight_embedding"], values["combined.weight_matcher"]) == (0.5, 0.5)
    assert values["combined.fallback"] is False
    assert values["matcher.accuracy"] > 0.6


def test_images_in_memory_and_on_disk_are_scored_alike():
    dataset = open_dataset("synthetic-faces:identities=12,images=6,size=12x12,seed=4")
    from_disk = evaluate_embeddings(embed, dataset, resize=np.asarray, batch=8, scores=settings())
    in_memory = evaluate_pixels(embed, read_pixels(dataset, np.asarray), batch=16, scores=settings())
    assert measured_values(from_disk) == measured_values(in_memory)
    assert "embedding.rank1" in measured_values(in_memory)
    assert measured_values(in_memory)["matcher.different_pairs"] <= 16_000


def test_a_matcher_at_chance_is_recorded():
    class Inverted(ColumnMatcher):
        def scores(self, first, second):
            return -super().scores(first, second)

    result = evaluate_embeddings(
        embed, listed(), resize=np.asarray, batch=8, scores=ScoreSettings(ALL, Combination(), Inverted())
    )
    values = measured_values(result)
    assert values["combined.fallback"] is True
    assert values["combined.fallback_folds"] == 10
    assert values["combined.weight_embedding"] == pytest.approx(0.8)


def test_the_combined_accuracy_chooses_the_best_of_several_sets():
    sets = {"lfw": listed(40), "agedb_30": listed(60)}
    plans = {name: plan_scores(plan_evaluation(each), each, ALL) for name, each in sets.items()}
    assert choose_metric(plans, None) == "mean.combined.accuracy"
    assert choose_metric(plans, "lfw.matcher.accuracy") == "lfw.matcher.accuracy"
    with pytest.raises(ConfigError, match=r"evaluation.metric: these sets have no 'mean.accuracy'"):
        choose_metric(plans, "mean.accuracy")
    results = {
        name: evaluate_embeddings(embed, each, resize=np.asarray, batch=8, scores=settings())
        for name, each in sets.items()
    }
    values = joined_metrics(plans, results)
    for score in ALL:
        both = [values[f"{name}.{score}.accuracy"] for name in sets]
        assert values[f"mean.{score}.accuracy"] == pytest.approx(sum(both) / 2)


def test_scores_need_pairs_and_a_matcher():
    people = open_dataset("synthetic-people:identities=4,images=8,size=16x8")
    with pytest.raises(ConfigError, match=r"is measured by retrieval; set evaluation\.protocol=verification"):
        plan_scores(plan_evaluation(people), people, ALL)
    with pytest.raises(ConfigError, match="matcher needs a matcher, and this model has none"):
        check_scores(("embedding", "matcher"), matcher=False, setting="--scores")
    with pytest.raises(ConfigError, match="--scores: no score 'matchr'"):
        check_scores(("matchr",), matcher=True, setting="--scores")
    with pytest.raises(ConfigError, match="'matcher' is named twice"):
        check_scores(("matcher", "matcher"), matcher=True, setting="--scores")
