"""Softmax with label smoothing, and over parts, against their formulas in NumPy; the heads compute the same."""

import numpy as np
import pytest
import torch

from rtool.errors import ConfigError
from rtool.finetune.config.losses import PartsLoss, SoftmaxLoss
from rtool.finetune.losses.heads import LinearHead, PartsHead, build_head
from rtool.finetune.losses.softmax_losses import parts_loss, softmax_loss

LABELS = np.array([0, 2, 4, 4, 1, 3])


def by_formula(logits, smoothing):
    total = 0.0
    for row, label in zip(logits, LABELS, strict=True):
        log_share = row - np.log(np.exp(row).sum())
        wanted = np.full(len(row), smoothing / len(row))
        wanted[label] += 1 - smoothing
        total -= (wanted * log_share).sum()
    return total / len(logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_softmax_with_smoothing_follows_its_formula(smoothing):
    logits = np.random.default_rng(0).normal(size=(6, 5))
    got = softmax_loss(torch.tensor(logits), torch.tensor(LABELS), smoothing=smoothing)
    assert got.item() == pytest.approx(by_formula(logits, smoothing))


def test_the_loss_over_parts_is_the_mean_of_theirs():
    logits = np.random.default_rng(1).normal(size=(3, 6, 5))
    got = parts_loss(list(torch.tensor(logits)), torch.tensor(LABELS), smoothing=0.2)
    assert got.item() == pytest.approx(np.mean([by_formula(part, 0.2) for part in logits]))


def test_the_heads_classify_the_embedding_and_its_equal_slices():
    torch.manual_seed(0)
    embeddings, labels = torch.randn(6, 12), torch.tensor(LABELS)
    linear, parts = LinearHead(12, 5, 0.1), PartsHead(12, 5, 3, 0.1)
    for head in (linear, *parts.classifiers):
        torch.nn.init.normal_(head.weight)
        torch.nn.init.normal_(head.bias)
    x = embeddings.numpy().astype("f8")

    def logits(head, rows):
        return rows @ head.weight.detach().numpy().T.astype("f8") + head.bias.detach().numpy()

    assert linear(embeddings, labels).item() == pytest.approx(by_formula(logits(linear, x), 0.1), rel=1e-5)
    slices = [logits(head, x[:, 4 * n : 4 * n + 4]) for n, head in enumerate(parts.classifiers)]
    expected = np.mean([by_formula(part, 0.1) for part in slices])
    assert parts(embeddings, labels).item() == pytest.approx(expected, rel=1e-5)


def test_a_neck_normalises_what_the_classifier_sees_and_nothing_else():
    torch.manual_seed(0)
    embeddings, labels = 3 * torch.randn(6, 12) + 2, torch.tensor(LABELS)
    head = build_head(SoftmaxLoss(kind="softmax", smoothing=0.1, neck=True), 12, 5)
    head.weight.data.normal_()
    x = embeddings.numpy().astype("f8")
    normalised = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    expected = by_formula(normalised @ head.weight.detach().numpy().T.astype("f8"), 0.1)
    assert head(embeddings, labels).item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(head.neck.running_mean, 0.1 * embeddings.mean(0))


def test_a_global_branch_is_a_slice_of_its_own_length():
    torch.manual_seed(0)
    embeddings, labels = torch.randn(6, 13), torch.tensor(LABELS)
    head = PartsHead(13, 5, 3, 0.1, global_dim=4)
    for classifier in head.classifiers:
        classifier.weight.data.normal_()
    slices = [(0, 3), (3, 6), (6, 9), (9, 13)]
    logits = [
        embeddings[:, low:high].numpy() @ classifier.weight.detach().numpy().T
        for (low, high), classifier in zip(slices, head.classifiers, strict=True)
    ]
    expected = np.mean([by_formula(part.astype(np.float64), 0.1) for part in logits])
    assert head(embeddings, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("lengths", [(12, 0), (14, 3), (4, 4), (3, 4)])
def test_parts_that_do_not_divide_the_embedding_are_refused(lengths):
    dimension, global_dim = lengths
    loss = PartsLoss(kind="pcb", parts=5, global_dim=global_dim)
    with pytest.raises(ConfigError, match=f"5 parts does not divide an embedding of {dimension}"):
        build_head(loss, dimension, 4)
