"""Pairs of a data set by several scores: which pairs, with which masks, and what is written of them."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from rtool.converters.preprocessing.decision import PreprocessingDecision
from rtool.converters.records.preprocessing import Preprocessing
from rtool.errors import ConfigError, DataError
from rtool.finetune.data.dataset import UNKNOWN_CAMERA, ArrayImages, Dataset
from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.embedding.embedders import Embedder
from rtool.finetune.evaluation.model_sets import EvaluationSettings
from rtool.finetune.evaluation.report.entries import MeasuredSet
from rtool.finetune.evaluation.report.page import render_page
from rtool.finetune.evaluation.scores.combining import Combination
from rtool.finetune.evaluation.scores.scoring import ScoreSettings
from rtool.finetune.evaluation.standalone import all_pairs
from rtool.finetune.evaluation.standalone.all_pairs import every_pair
from rtool.finetune.evaluation.standalone.masked_images import MaskedImages, MaskSettings, parse_points
from rtool.finetune.evaluation.standalone.pair_evaluation import PairSettings
from rtool.finetune.evaluation.standalone.pair_files import rate_text, write_pair_files, write_similarity
from rtool.finetune.evaluation.standalone.pair_sets import measure_pair_sets

FACES = "synthetic-faces:identities=8,images=4,size=24x24,seed=4"
SIZE = Preprocessing(24, 24)
ALL = ("embedding", "matcher", "combined")


class BlockMatcher:
    """Describes an image by 6 x 6 blocks, and says that what is black is hidden."""

    def describe(self, pixels):
        return pixels.reshape(len(pixels), 6, 4, 6, 4, 3).mean(axis=(2, 4, 5)) / 255

    def join(self, parts):
        return np.concatenate(parts)

    def take(self, described, rows):
        return described[rows]

    def visibility(self, described):
        return (described > 0.2).astype(np.float32)

    def scores(self, first, second):
        return -np.abs(first - second).mean(axis=(1, 2)).astype(np.float32)


def embed_at(_batch, pixels):
    rows = pixels.reshape(len(pixels), -1).astype(np.float32) / 255
    return rows - rows.mean(axis=1, keepdims=True)


MODEL = Embedder("pixels", PreprocessingDecision(SIZE, "of the test", "stated"), embed_at, lambda: "0" * 64, batch=16)


@cache
def measured(scores=ALL, source=FACES, masks=None, fars=(1e-1, 1e-2), **combination):
    settings = ScoreSettings(scores, Combination(**combination), BlockMatcher())
    pairs = PairSettings(masks or MaskSettings(), fars)
    (found,) = measure_pair_sets(MODEL, {"": source}, EvaluationSettings(), settings, pairs, report=lambda _: None)
    return found


def test_all_unordered_pairs_are_measured_and_no_image_meets_itself():
    dataset = open_dataset(FACES)
    pairs = every_pair(dataset)
    assert len(pairs) == 32 * 31 // 2
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len({tuple(pair) for pair in pairs[:, :2].tolist()}) == len(pairs)
    assert (pairs[:, 2] == (dataset.identities[pairs[:, 0]] == dataset.identities[pairs[:, 1]])).all()
    _, _, found = measured()
    for name, scored in found.result.many.items():
        assert (scored.same, scored.different) == (8 * 6, 32 * 31 // 2 - 48), name


def test_each_score_is_that_of_its_pair():
    _, _, found = measured()
    pixels = open_dataset(FACES).images.pixels
    rows = embed_at(1, pixels) + embed_at(1, pixels[:, :, ::-1])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    matcher, forms = BlockMatcher(), (pixels, pixels[:, :, ::-1])
    for row in (0, 17, 200, 495):
        one, other = found.result.images[row]
        assert found.result.many["embedding"].scores[row] == pytest.approx(float(unit[one] @ unit[other]), abs=1e-5)
        four = [
            matcher.scores(matcher.describe(a[[one]]), matcher.describe(b[[other]]))[0] for a in forms for b in forms
        ]
        assert found.result.many["matcher"].scores[row] == pytest.approx(np.mean(four), abs=1e-5)


def test_masks_lie_on_one_side_and_are_the_same_again():
    dataset = open_dataset(FACES)
    images = MaskedImages(dataset, lambda numbers: dataset.images.pixels[numbers], MaskSettings(share=1.0))
    pairs = images.pairs(np.array([[0, 1, 1], [2, 1, 0]]))
    assert pairs.tolist() == [[0, 65, 1], [2, 65, 0]]
    assert (images.read(pairs[:, 0]) == dataset.images.pixels[[0, 2]]).all()
    masked = images.read(pairs[:, 1])
    assert (masked[0] != dataset.images.pixels[1]).any()
    assert (masked[0] == masked[1]).all()
    visible = images.visible(pairs[0, :2])
    assert (visible[0] == 255).all()
    assert (masked[0][visible[1] == 255] == dataset.images.pixels[1][visible[1] == 255]).all()
    both = replace(images, settings=MaskSettings(share=1.0, side="both"))
    assert both.pairs(np.array([[0, 1, 1]])).tolist() == [[32, 65, 1]]
    other_seed = replace(images, settings=MaskSettings(share=1.0, seed=1))
    assert (other_seed.read(pairs[:1, 1]) != masked[:1]).any()
    half = replace(images, settings=MaskSettings(share=0.5))
    shares = [(half.visible(np.array([64 + n])) < 255).any() for n in range(32)]
    assert 6 < sum(shares) < 26


def test_masks_make_verification_harder_and_leave_clean_figures_alone():
    clean = measured(("embedding",))[2].result.results["embedding"]
    masked = measured(("embedding",), masks=MaskSettings(share=1.0))[2].result.results["embedding"]
    assert masked.auc < clean.auc
    again = measured.__wrapped__(("embedding",), masks=MaskSettings(share=1.0))[2].result.results["embedding"]
    assert again == masked


def test_what_is_written_holds_every_score(tmp_path):
    _, _, found = measured(fars=(1e-1, 1e-2, 1e-4))
    write_pair_files(tmp_path, {"": found}, {"model": "pixels"})
    values = json.loads((tmp_path / "result.json").read_text())
    assert values["model"] == "pixels"
    assert values["pairs"] == "all unordered pairs of images"
    assert set(values["scores"]) == set(ALL)
    for score in values["scores"].values():
        assert (score["genuine"], score["impostor"]) == (48, 448)
        assert score["vr_at_far"]["1e-1"]["impostors_that_may_pass"] == 44
        assert score["vr_at_far"]["1e-4"]["vr"] is None
        assert score["vr_at_far"]["1e-4"]["why"].startswith("too few impostors: 448 pairs")
        assert sum(score["histogram"]["genuine"]) == 48
        assert sum(score["histogram"]["impostor"]) == 448
        assert len(score["histogram"]["edges"]) == 51
    assert values["combined"] == {
        "weights": {"embedding": 0.5, "matcher": 0.5},
        "fallback": False,
        "fallback_folds": 0,
    }
    lines = (tmp_path / "roc.csv").read_text().splitlines()
    assert lines[0] == "set,score,far,tar"
    assert {line.split(",")[1] for line in lines[1:]} == set(ALL)


def test_the_rate_at_a_false_accept_rate_is_the_largest_that_keeps_to_it():
    _, _, found = measured()
    from rtool.finetune.evaluation.standalone.pair_files import verification_rates

    scored = found.result.many["matcher"]
    rate = verification_rates(scored, (0.05,))["5e-2"]
    same, different = scored.scores[scored.is_same], scored.scores[~scored.is_same]
    thresholds = np.unique(scored.scores)
    kept = [(same > each).mean() for each in thresholds if (different > each).mean() <= 0.05]
    assert rate["vr"] == pytest.approx(max(kept))


def test_the_matrix_has_both_halves_without_masks_and_one_with(tmp_path):
    _, _, found = measured(("embedding", "matcher"))
    write_similarity(tmp_path / "s.npy", found)
    matrices = np.load(tmp_path / "s.npy")
    assert (matrices.shape, matrices.dtype) == ((2, 32, 32), np.float32)
    assert np.isnan(matrices[:, np.arange(32), np.arange(32)]).all()
    np.testing.assert_array_equal(matrices[0], matrices[0].T)
    _, _, masked = measured(("embedding",), masks=MaskSettings(share=1.0))
    write_similarity(tmp_path / "s.npy", masked)
    (matrix,) = np.load(tmp_path / "s.npy")
    assert np.isnan(matrix[np.tril_indices(32)]).all()
    assert np.isfinite(matrix[np.triu_indices(32, 1)]).all()


def test_the_page_shows_every_score_and_twenty_pairs():
    name, all_measured, found = measured(("combined",), masks=MaskSettings(share=1.0))
    page = render_page([MeasuredSet(name, all_measured, pairs=found)], {"model": "pixels"}, [])
    assert page.count("<svg") == 2
    assert page.count('<div class="pair">') == 20
    assert page.count("data:image/jpeg") == 40
    for text in ("100% of the second images of pairs, medical, seed 0", "VR at FAR 1e-2", "combined score"):
        assert text in page, text


def listed():
    pixels = open_dataset(FACES).images.pixels
    rows = [(n, n + 1, 1) for n in range(0, 32, 4)] + [(n, (n + 5) % 32, 0) for n in range(0, 32, 4)]
    return Dataset(
        "listed",
        ArrayImages(pixels),
        np.arange(32),
        np.full(32, UNKNOWN_CAMERA),
        tuple(map(str, range(32))),
        pairs=np.array(rows),
    )


def test_listed_pairs_are_measured_as_they_are_listed(monkeypatch, tmp_path):
    from rtool.finetune.evaluation.standalone import pair_sets

    monkeypatch.setattr(pair_sets, "opened_set", lambda *_: listed())
    _, _, found = measured(source="listed", masks=MaskSettings(share=1.0, points=TEMPLATE))
    assert found.listed
    assert len(found.result.images) == 16
    assert found.numbers[0].tolist() == [0, 65]
    with pytest.raises(ConfigError, match="lists its pairs, which make no matrix"):
        write_similarity(tmp_path / "s.npy", found)


TEMPLATE = ((8.2, 11.1), (15.8, 11.0), (12.0, 15.4), (8.9, 19.8), (15.2, 19.8))


def test_more_pairs_than_memory_should_hold_are_refused(monkeypatch):
    monkeypatch.setattr(all_pairs, "MOST_PAIRS", 100)
    with pytest.raises(DataError, match=r"32 images make 496 pairs, more than 100; measure a part with --limit 14"):
        every_pair(open_dataset(FACES))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (lambda: MaskSettings(share=1.5), "--masked 1.5: the share"),
        (lambda: MaskSettings(share=-0.1), "between 0 and 1"),
        (lambda: PairSettings(fars=(0.0,)), "--far 0.0: give rates above 0"),
        (lambda: PairSettings(fars=()), "give rates above 0"),
        (lambda: parse_points("1,2 3,4"), "--mask-points '1,2 3,4'"),
        (lambda: parse_points("a"), "--mask-points 'a'"),
    ],
)
def test_what_cannot_be_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        settings()


@pytest.mark.parametrize(
    ("far", "text"), [(1e-3, "1e-3"), (1e-4, "1e-4"), (5e-3, "5e-3"), (0.5, "0.5"), (0.015, "0.015")]
)
def test_rates_are_written_as_they_are_asked(far, text):
    assert rate_text(far) == text
