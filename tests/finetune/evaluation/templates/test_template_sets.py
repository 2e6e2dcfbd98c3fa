"""Template sets: the lists, the alignment, the templates' embeddings and 1:N against the protocol written out."""

import numpy as np
import pytest
from PIL import Image

from rtool.converters.preprocessing.decision import PreprocessingDecision
from rtool.converters.records.preprocessing import Preprocessing
from rtool.errors import ConfigError, DataError
from rtool.finetune.embedding.embedders import Embedder
from rtool.finetune.evaluation.model_sets import EvaluationSettings, measure_sets
from rtool.finetune.evaluation.ranks.ranking import Ranking
from rtool.finetune.evaluation.templates.face_alignment import LANDMARK_PLACES, align_face, similarity_transform
from rtool.finetune.evaluation.templates.identification import identification_rates
from rtool.finetune.evaluation.templates.template_folder import Subjects, open_template_folder
from rtool.finetune.evaluation.templates.template_verification import template_embeddings


def write_set(folder, people=6, templates=4, landmarks=True):
    """Every template has three images in two media; templates are numbered from 100."""
    (folder / "meta").mkdir(parents=True)
    (folder / "loose_crop").mkdir()
    rng = np.random.default_rng(0)
    listed, points = [], []
    for template in range(people * templates):
        for number in range(3):
            name = f"{template * 3 + number}.png"
            colour = 40 * (template // templates) + rng.integers(0, 20, (20, 20, 3))
            Image.fromarray(colour.astype("u1")).resize((120, 120)).save(folder / "loose_crop" / name)
            listed.append(f"{name} {100 + template} {template * 2 + number // 2}")
            places = " ".join(f"{x + 4:.2f} {y + 4:.2f}" for x, y in LANDMARK_PLACES)
            points.append(f"{name} {places} {0.5 + 0.1 * number}")
    (folder / "meta" / "toy_face_tid_mid.txt").write_text("\n".join(listed) + "\n")
    if landmarks:
        (folder / "meta" / "toy_name_5pts_score.txt").write_text("\n".join(points) + "\n")
    count = people * templates
    pairs = [f"{100 + a} {100 + b} {int(a // templates == b // templates)}" for a in range(count) for b in range(a)]
    (folder / "meta" / "toy_template_pair_label.txt").write_text("\n".join(pairs) + "\n")
    for name, first in (("G1", 0), ("G2", 1)):
        rows = [f"{100 + person * templates},{person},x.png" for person in range(first, people, 2)]
        (folder / "meta" / f"toy_1N_gallery_{name}.csv").write_text(
            "TEMPLATE_ID,SUBJECT_ID,FILENAME\n" + "\n".join(rows)
        )
    probes = [f"{100 + person * templates + k},{person}" for person in range(people) for k in (1, 2, 3)]
    (folder / "meta" / "toy_1N_probe_mixed.csv").write_text("TEMPLATE_ID,SUBJECT_ID\n" + "\n".join(probes) + "\n")
    return folder


def test_a_face_is_aligned_to_the_places_of_its_landmarks():
    angle, scale, shift = 0.4, 1.7, np.array([30.0, 12.0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = LANDMARK_PLACES @ turn.T + shift + 40
    matrix = similarity_transform(landmarks, LANDMARK_PLACES)
    np.testing.assert_allclose(landmarks @ matrix[:, :2].T + matrix[:, 2], LANDMARK_PLACES, atol=1e-9)
    rows, columns = np.mgrid[:112, :112]
    for (x, y), place in zip(landmarks, LANDMARK_PLACES, strict=True):
        away = np.square(np.arange(320) - x) + np.square(np.arange(320)[:, None] - y)
        aligned = align_face(Image.fromarray((255 * np.exp(-away / 50)).astype("u1")), landmarks)
        assert (aligned.mode, aligned.size) == ("RGB", (112, 112))
        light = np.asarray(aligned)[..., 0].astype("f8")
        centre = (columns * light).sum() / light.sum(), (rows * light).sum() / light.sum()
        np.testing.assert_allclose(centre, place, atol=0.1)


def test_a_mirrored_set_of_points_is_turned_and_not_mirrored():
    mirrored = LANDMARK_PLACES * (-1, 1)
    assert np.linalg.det(similarity_transform(mirrored, LANDMARK_PLACES)[:, :2]) > 0


def test_templates_are_sums_over_media_of_weighted_means():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(40, 5)).astype("f4")
    template, media, weight = rng.integers(0, 4, 40), rng.integers(0, 6, 40), rng.random(40)
    expected = np.zeros((4, 5))
    for one in range(4):
        for each in sorted(set(media[template == one].tolist())):
            rows = [n for n in range(40) if template[n] == one and media[n] == each]
            expected[one] += sum(weight[n] * embeddings[n] for n in rows) / len(rows)
    np.testing.assert_allclose(template_embeddings(embeddings, template, media, weight, 4), expected, atol=1e-5)


def test_identification_agrees_with_a_loop_over_probes():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(60, 16))
    unit = centres[np.arange(240) % 60] + 0.9 * rng.normal(size=(240, 16))
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype("f4")
    gallery = Subjects(np.arange(30), np.arange(30))
    probes = Subjects(np.arange(60, 240), np.arange(60, 240) % 60)
    ranks, strangers, hits = [], [], []
    for template, subject in zip(probes.templates, probes.subjects, strict=True):
        scores = [float(unit[template] @ unit[g]) for g in gallery.templates]
        if subject >= 30:
            strangers.append(max(scores))
            continue
        ranks.append(sum(score > scores[subject] for score in scores))
        hits.append((scores[subject] == max(scores), scores[subject]))
    found = identification_rates(unit, (gallery,), probes)
    for depth in (1, 5, 10):
        assert found[f"rank{depth}"] == pytest.approx(np.mean(np.array(ranks) < depth))
    threshold = sorted(strangers, reverse=True)[int(0.1 * len(strangers))]
    expected = np.mean([right and score > threshold for right, score in hits])
    assert found["tpir_at_fpir_1e1"] == pytest.approx(expected)
    assert found["tpir_at_fpir_1e2"] is None  # 90 strangers cannot show one in 100


@pytest.mark.parametrize("landmarks", [True, False])
def test_a_set_is_measured_one_to_one_and_one_to_n(tmp_path, landmarks):
    folder = write_set(tmp_path / "set", landmarks=landmarks)
    settings = EvaluationSettings(flip=False)
    (_, measured, _), *_ = measure_sets(mean_colour(), {"": folder}, settings)
    result = measured.result
    assert (result.protocol, result.templates, result.pairs) == ("templates", 24, 276)
    assert result.accuracy > 0.9
    assert result.identification["rank5"] == 1.0
    assert measured.compared.scored_images.max() < len(measured.dataset)
    for refused in (
        EvaluationSettings(limit=5),
        EvaluationSettings("verification"),
        EvaluationSettings(ranking=Ranking(rerank=True)),
    ):
        with pytest.raises(ConfigError):
            list(measure_sets(mean_colour(), {"": folder}, refused))


def mean_colour():
    """An embedder that returns how bright an image is, as an angle."""
    preprocessing = Preprocessing(112, 112)

    def embed_at(batch, pixels):
        angle = pixels.reshape(len(pixels), -1).mean(axis=1) / 255 * np.pi
        return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype("f4")

    decision = PreprocessingDecision(preprocessing, "stated", "by the test")
    return Embedder("mean colour", decision, embed_at, lambda: "0" * 64)


def test_lists_that_name_what_is_not_there_are_refused(tmp_path):
    folder = write_set(tmp_path / "set")
    (folder / "loose_crop" / "7.png").unlink()
    with pytest.raises(DataError, match=r"line 8: .*7\.png does not exist"):
        open_template_folder(folder)
    folder = write_set(tmp_path / "other")
    pairs = folder / "meta" / "toy_template_pair_label.txt"
    pairs.write_text(pairs.read_text() + "100 999 0\n")
    with pytest.raises(DataError, match="template 999 has no image"):
        open_template_folder(folder)
    pairs.write_text("100 101 1\n")
    with pytest.raises(DataError, match="1 pairs of one person and 0 of two"):
        open_template_folder(folder)
    (folder / "meta" / "toy_name_5pts_score.txt").write_text("0.png 1 2 3\n")
    with pytest.raises(DataError, match="expected 12 fields, got 4"):
        open_template_folder(folder)
