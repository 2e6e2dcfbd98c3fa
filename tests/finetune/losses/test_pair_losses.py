"""Pair losses against their formulas written out with loops in NumPy."""

import numpy as np
import pytest
import torch

from rtool.finetune.config.config import CenterLoss, ContrastiveLoss, MultiSimilarityLoss
from rtool.finetune.losses.heads import build_head
from rtool.finetune.losses.pair_losses import (
    center_loss,
    circle_pair_loss,
    contrastive_loss,
    moved_centers,
    multi_similarity_loss,
    triplet_loss,
)

LABELS = np.array([0, 0, 1, 1, 1, 2, 3, 3])


@pytest.fixture
def rows():
    return np.random.default_rng(3).normal(size=(8, 6))


def distances(x):
    return np.sqrt(np.maximum(((x[:, None] - x[None]) ** 2).sum(-1), 1e-12))


def gaps(x, weighted):
    d, out = distances(x), []
    for a in range(8):
        positive = [p for p in range(8) if p != a and LABELS[p] == LABELS[a]]
        negative = [n for n in range(8) if LABELS[n] != LABELS[a]]
        if not positive:
            continue
        dp, dn = d[a, positive], d[a, negative]
        if weighted:
            out.append((dp * np.exp(dp) / np.exp(dp).sum()).sum() - (dn * np.exp(-dn) / np.exp(-dn).sum()).sum())
        else:
            out.append(dp.max() - dn.min())
    return np.array(out)


@pytest.mark.parametrize("mining", ["hard", "weighted"])
@pytest.mark.parametrize("margin", [0.3, None])
def test_triplet_follows_its_formula(rows, margin, mining):
    gap = gaps(rows, mining == "weighted")
    expected = np.log1p(np.exp(gap)).mean() if margin is None else np.maximum(gap + margin, 0).mean()
    got = triplet_loss(torch.tensor(rows), torch.tensor(LABELS), margin=margin, mining=mining)
    assert got.item() == pytest.approx(expected)


def test_circle_pair_form_follows_its_formula(rows):
    x = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    s, per_anchor = x @ x.T, []
    for a in range(8):
        positive = [p for p in range(8) if p != a and LABELS[p] == LABELS[a]]
        negative = [n for n in range(8) if LABELS[n] != LABELS[a]]
        if positive:
            sp, sn = s[a, positive], s[a, negative]
            lp = np.log(np.exp(-8 * np.maximum(1.25 - sp, 0) * (sp - 0.75)).sum())
            ln = np.log(np.exp(8 * np.maximum(sn + 0.25, 0) * (sn - 0.25)).sum())
            per_anchor.append(np.log1p(np.exp(lp + ln)))
    got = circle_pair_loss(torch.tensor(rows), torch.tensor(LABELS), margin=0.25, scale=8.0)
    assert got.item() == pytest.approx(np.mean(per_anchor))


def multi_similarity(x, alpha, beta, base, epsilon):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    s, terms = unit @ unit.T, []
    for a in range(8):
        positive = [s[a, p] for p in range(8) if p != a and LABELS[p] == LABELS[a]]
        negative = [s[a, n] for n in range(8) if LABELS[n] != LABELS[a]]
        if not positive:
            continue
        pulled = [p for p in positive if p - epsilon < max(negative)]
        pushed = [n for n in negative if n + epsilon > min(positive)]
        terms.append(
            np.log(1 + sum(np.exp(-alpha * (p - base)) for p in pulled)) / alpha
            + np.log(1 + sum(np.exp(beta * (n - base)) for n in pushed)) / beta
        )
    return np.mean(terms)


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 2.0, "beta": 50.0, "base": 0.5, "epsilon": 0.1},
        {"alpha": 5.0, "beta": 10.0, "base": 0.0, "epsilon": 0.0},
        {"alpha": 1.0, "beta": 20.0, "base": 0.8, "epsilon": 2.0},
    ],
)
def test_multi_similarity_follows_its_formula(rows, settings):
    got = multi_similarity_loss(torch.tensor(rows), torch.tensor(LABELS), **settings)
    assert got.item() == pytest.approx(multi_similarity(rows, **settings), rel=1e-12)


def contrastive(x, margin):
    d = distances(x)
    pull = [d[i, j] ** 2 for i in range(8) for j in range(8) if i != j and LABELS[i] == LABELS[j]]
    push = [(margin - d[i, j]) ** 2 for i in range(8) for j in range(8) if LABELS[i] != LABELS[j] and d[i, j] < margin]
    return 0.5 * (np.mean(pull) + (np.mean(push) if push else 0.0))


@pytest.mark.parametrize("margin", [0.5, 3.0, 100.0])  # no pair nearer than the margin, some, all
def test_contrastive_follows_its_formula(rows, margin):
    got = contrastive_loss(torch.tensor(rows), torch.tensor(LABELS), margin=margin)
    assert got.item() == pytest.approx(contrastive(rows, margin), rel=1e-12)


@pytest.mark.parametrize(
    ("ours", "formula"),
    [
        (multi_similarity_loss, lambda x: multi_similarity(x, 2.0, 50.0, 0.5, 0.1)),
        (contrastive_loss, lambda x: contrastive(x, 1.0)),
        (lambda e, y: contrastive_loss(e, y, margin=4.0), lambda x: contrastive(x, 4.0)),
    ],
    ids=["multi_similarity", "contrastive", "contrastive wide"],
)
def test_their_gradients_are_the_formulas(rows, ours, formula):
    x = torch.tensor(rows, requires_grad=True)
    ours(x, torch.tensor(LABELS)).backward()
    step, numeric = 1e-6, np.zeros_like(rows)
    for place in np.ndindex(rows.shape):
        ahead, behind = rows.copy(), rows.copy()
        ahead[place] += step
        behind[place] -= step
        numeric[place] = (formula(ahead) - formula(behind)) / (2 * step)
    np.testing.assert_allclose(x.grad.numpy(), numeric, atol=1e-8)


def test_the_heads_pass_their_settings_on(rows):
    embeddings, labels = torch.tensor(rows).float(), torch.tensor(LABELS)
    head = build_head(MultiSimilarityLoss(kind="multi_similarity", alpha=5, beta=10, base=0, epsilon=0), 6, 4)
    assert head(embeddings, labels).item() == pytest.approx(multi_similarity(rows, 5, 10, 0, 0), rel=1e-5)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for normalise, x in ((True, unit), (False, rows)):
        head = build_head(ContrastiveLoss(kind="contrastive", margin=1.5, normalise=normalise), 6, 4)
        assert head(embeddings, labels).item() == pytest.approx(contrastive(x, 1.5), rel=1e-5)


def test_center_loss_follows_its_formula(rows):
    centers = np.random.default_rng(4).normal(size=(4, 6))
    expected = 0.5 * ((rows - centers[LABELS]) ** 2).sum(1).mean()
    got = center_loss(torch.tensor(rows), torch.tensor(LABELS), torch.tensor(centers))
    assert got.item() == pytest.approx(expected)


def test_centers_move_by_the_papers_rule(rows):
    centers = np.random.default_rng(4).normal(size=(9, 6))
    expected = centers.copy()
    for j in range(9):
        pull, count = np.zeros(6), 0
        for row, label in zip(rows, LABELS, strict=True):
            if label == j:
                pull, count = pull + (centers[j] - row), count + 1
        expected[j] = centers[j] - 0.3 * pull / (1 + count)
    got = moved_centers(torch.tensor(rows), torch.tensor(LABELS), torch.tensor(centers), alpha=0.3)
    np.testing.assert_allclose(got.numpy(), expected)
    assert (got.numpy()[8] == centers[8]).all()


@pytest.mark.parametrize("weight", [5e-4, 1.0])
def test_the_head_brings_the_centers_to_their_classes_whatever_the_weight_and_the_optimizer(rows, weight):
    head = build_head(CenterLoss(kind="center", weight=weight), 6, 4)
    embeddings, labels = torch.tensor(rows, requires_grad=True), torch.tensor(LABELS)
    assert not list(head.parameters())
    before = head(embeddings, labels)
    assert before.item() == pytest.approx(0.5 * (rows**2).sum(1).mean())  # with the centres of before the step
    for _ in range(60):
        (head(embeddings, labels) * weight).backward()
    means = np.stack([rows[np.asarray(LABELS) == j].mean(axis=0) for j in range(4)])
    np.testing.assert_allclose(head.centers.numpy(), means, atol=1e-4)
    head.eval()
    fixed = head.centers.clone()
    head(embeddings + 1, labels)
    assert torch.equal(head.centers, fixed)


@pytest.mark.parametrize("loss", [triplet_loss, circle_pair_loss, multi_similarity_loss])
def test_a_batch_without_pairs_gives_zero_and_zero_gradient(loss):
    x = torch.randn(3, 4, requires_grad=True)
    value = loss(x, torch.tensor([0, 1, 2]))
    value.backward()
    assert value.item() == 0.0
    assert (x.grad == 0).all()


def test_identical_rows_have_a_finite_gradient():
    x = torch.ones(4, 3, requires_grad=True)
    triplet_loss(x, torch.tensor([0, 0, 1, 1])).backward()
    assert torch.isfinite(x.grad).all()
