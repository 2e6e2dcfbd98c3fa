"""Distillation losses against their formulas, written out in NumPy with loops and float64."""

import numpy as np
import pytest
import torch

from rtool.finetune.distillation.losses import (
    cosine_loss,
    moved_centres,
    rkd_angle_loss,
    rkd_distance_loss,
    similarity_loss,
    softened_divergence,
)

rng = np.random.default_rng(0)
STUDENT, TEACHER = rng.normal(size=(6, 5)), rng.normal(size=(6, 8))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def huber(differences: list[float]) -> float:
    return float(np.mean([0.5 * d * d if abs(d) < 1 else abs(d) - 0.5 for d in differences]))


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.tensor(array, dtype=torch.float64) for array in arrays]


def distances() -> float:
    found = []
    for rows in (unit(STUDENT), unit(TEACHER)):
        pairs = [np.linalg.norm(a - b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        found.append(np.array(pairs) / np.mean(pairs))
    return huber(list(found[0] - found[1]))


def angles() -> float:
    found = []
    for rows in (unit(STUDENT), unit(TEACHER)):
        cosines = []
        for j in range(len(rows)):
            for i in range(len(rows)):
                for k in range(len(rows)):
                    if len({i, j, k}) == 3:
                        a, b = rows[i] - rows[j], rows[k] - rows[j]
                        cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        found.append(np.array(cosines))
    return huber(list(found[0] - found[1]))


def similarity() -> float:
    grams = [unit(rows @ rows.T) for rows in (STUDENT, TEACHER)]
    return float(((grams[0] - grams[1]) ** 2).sum() / len(STUDENT) ** 2)


@pytest.mark.parametrize(
    ("loss", "formula"),
    [(rkd_distance_loss, distances), (rkd_angle_loss, angles), (similarity_loss, similarity)],
)
def test_relations_of_a_batch_are_compared_by_their_formula(loss, formula):
    assert loss(*tensors(STUDENT, TEACHER)).item() == pytest.approx(formula(), rel=1e-9)


@pytest.mark.parametrize("loss", [rkd_distance_loss, rkd_angle_loss, similarity_loss])
def test_relations_ignore_rotations_and_the_gradient_of_equal_images_is_finite(loss):
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    assert loss(*tensors(TEACHER, TEACHER @ turn)).item() == pytest.approx(0, abs=1e-9)
    twice = torch.tensor(STUDENT[[0, 0, 1, 2, 3, 4]], dtype=torch.float32, requires_grad=True)
    loss(twice, torch.tensor(TEACHER, dtype=torch.float32)).backward()
    assert twice.grad.isfinite().all()


def test_cosine_is_half_the_squared_distance_of_unit_vectors():
    student = rng.normal(size=TEACHER.shape)
    expected = np.mean(np.sum((unit(student) - unit(TEACHER)) ** 2, axis=1)) / 2
    assert cosine_loss(*tensors(student, TEACHER)).item() == pytest.approx(expected, rel=1e-9)


def test_centres_follow_the_teacher_less_where_the_student_has_learned():
    centres, student, teacher = (
        unit(rng.normal(size=(4, 8))),
        unit(rng.normal(size=(5, 8))),
        unit(rng.normal(size=(5, 8))),
    )
    labels = [0, 2, 2, 0, 2]
    expected = centres.copy()
    for label in (0, 2):
        moved = []
        for row in np.flatnonzero(np.array(labels) == label):
            share = np.clip((student[row] @ teacher[row]) * (centres[label] @ teacher[row]), 1e-6, 1)
            moved.append(share * centres[label] + (1 - share) * teacher[row])
        expected[label] = np.sum(moved, axis=0) / np.linalg.norm(np.sum(moved, axis=0))
    found = moved_centres(*tensors(centres, student, teacher), torch.tensor(labels))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_the_first_image_of_a_class_is_its_centre():
    teacher = unit(TEACHER[:1])
    found = moved_centres(torch.zeros(2, 8, dtype=torch.float64), *tensors(teacher, teacher), torch.tensor([1]))
    np.testing.assert_allclose(found.numpy(), [[0] * 8, teacher[0]], atol=1e-12)


def test_softened_divergence_leaves_out_classes_that_neither_has_seen():
    student, teacher, heat = rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), 2.5
    gaps = []
    for s, t in zip(student[:, :3] / heat, teacher[:, :3] / heat, strict=True):
        p, q = np.exp(t) / np.exp(t).sum(), np.exp(s) / np.exp(s).sum()
        gaps.append(np.sum(p * np.log(p / q)))
    student[:, 3] = teacher[:, 3] = -np.inf
    leaf = torch.tensor(student, requires_grad=True)
    loss = softened_divergence(leaf, torch.tensor(teacher), heat)
    assert loss.item() == pytest.approx(heat**2 * np.mean(gaps), rel=1e-9)
    loss.backward()
    assert leaf.grad.isfinite().all()
