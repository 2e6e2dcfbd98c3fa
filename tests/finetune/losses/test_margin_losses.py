"""Margin logits against their formulas written out in NumPy, and gradients against finite differences."""

import math

import numpy as np
import pytest
import torch

from rtool.finetune.config.config import AdaFaceLoss
from rtool.finetune.losses.heads import AdaFaceHead
from rtool.finetune.losses.margin_losses import adaface_logits, circle_logits, cosine_logits, margin_logits


@pytest.fixture
def cosine():
    return torch.tensor(np.random.default_rng(0).uniform(-0.95, 0.95, (6, 5)))


LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


@pytest.mark.parametrize("gradient", ["exact", "straight_through"])
@pytest.mark.parametrize("margins", [(1.0, 0.5, 0.0), (1.0, 0.0, 0.4), (1.0, 0.3, 0.2), (1.35, 0.0, 0.0)])
def test_all_three_margins_are_honoured(cosine, margins, gradient):
    m1, m2, m3 = margins
    got = margin_logits(cosine, LABELS, scale=30.0, m1=m1, m2=m2, m3=m3, gradient=gradient).numpy()
    expected = 30.0 * cosine.numpy().copy()
    for row, label in enumerate(LABELS.tolist()):
        angle = min(m1 * math.acos(cosine[row, label]) + m2, math.pi)
        expected[row, label] = 30.0 * (math.cos(angle) - m3)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-5)


def test_the_exact_gradient_is_that_of_the_formula(cosine):
    cosine.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda c: margin_logits(c, LABELS, scale=3.0, m1=1.1, m2=0.2, m3=0.1), cosine, eps=1e-7, atol=1e-4
    )


def test_the_straight_through_gradient_is_the_scale_at_the_label(cosine):
    cosine.requires_grad_()
    logits = margin_logits(cosine, LABELS, scale=64.0, m2=0.5, gradient="straight_through")
    logits[torch.arange(6), LABELS].sum().backward()
    expected = torch.zeros(6, 5, dtype=torch.float64)
    expected[torch.arange(6), LABELS] = 64.0
    torch.testing.assert_close(cosine.grad, expected)


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_gradients_stay_finite_at_the_edges(value):
    cosine = torch.full((1, 2), value, requires_grad=True)
    margin_logits(cosine, torch.tensor([0]), m2=0.5).sum().backward()
    assert torch.isfinite(cosine.grad).all()


def test_a_label_of_another_shard_gets_no_margin(cosine):
    got = margin_logits(cosine, torch.full((6,), -1), scale=2.0, m2=0.5)
    torch.testing.assert_close(got, 2.0 * cosine)


def test_high_cosines_of_other_classes_can_be_filtered():
    cosine = torch.tensor([[0.9, 0.7, 0.1]])
    got = margin_logits(cosine, torch.tensor([0]), scale=1.0, m2=0.0, filter_above=0.4)
    torch.testing.assert_close(got, torch.tensor([[0.9, 0.0, 0.1]]))


def test_adaface_follows_its_formula(cosine):
    quality = torch.tensor([-1.0, -0.3, 0.0, 0.4, 0.9, 1.0], dtype=torch.float64)
    got = adaface_logits(cosine, LABELS, quality, scale=64.0, margin=0.4).numpy()
    expected = 64.0 * cosine.numpy().copy()
    for row, label in enumerate(LABELS.tolist()):
        k = quality[row].item()
        angle = min(max(math.acos(cosine[row, label]) - 0.4 * k, 1e-3), math.pi - 1e-3)
        expected[row, label] = 64.0 * (math.cos(angle) - (0.4 + 0.4 * k))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_adafaces_statistics_survive_norms_that_are_large_and_nearly_alike():
    head = AdaFaceHead(4, 5, AdaFaceLoss(kind="adaface", momentum=1.0))
    norms = 80 + 1e-3 * torch.randn(512, generator=torch.Generator().manual_seed(0))
    embeddings = torch.zeros(512, 4)
    embeddings[:, 0] = norms
    head(embeddings, torch.arange(512) % 5)
    assert head.norm_mean.item() == pytest.approx(norms.double().mean().item())
    assert head.norm_deviation.item() == pytest.approx(norms.double().std().item(), rel=1e-4)


def test_circle_class_form_follows_its_formula(cosine):
    got = circle_logits(cosine, LABELS, scale=64.0, margin=0.35).numpy()
    c = cosine.numpy()
    expected = 64.0 * np.maximum(c + 0.35, 0) * (c - 0.35)
    for row, label in enumerate(LABELS.tolist()):
        expected[row, label] = 64.0 * max(1.35 - c[row, label], 0) * (c[row, label] - 0.65)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_cosines_are_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert cosine_logits(torch.randn(3, 4), torch.randn(5, 4)).dtype == torch.float32


def sphere(cosine, m1, m2, m3):
    """SphereFace's psi (arXiv:1704.08063, equation 7), written out: intervals [k pi, (k + 1) pi] of m1 t + m2."""
    angle = m1 * math.acos(cosine) + m2
    k = 0
    while angle >= (k + 1) * math.pi:
        k += 1
    return (-1) ** k * math.cos(angle) - 2 * k - m3


@pytest.mark.parametrize(
    "margins",
    [(2.0, 0.0, 0.0), (4.0, 0.0, 0.0), (3.0, 0.5, 0.2), (1.9, 0.0, 0.0), (1.0, 2.0, 0.0), (2.5, 0.0, 0.1)],
)
def test_large_margins_fall_on_beyond_pi_with_the_gradient_of_the_formula(margins):
    m1, m2, m3 = margins
    cosine = torch.linspace(-0.999, 0.999, 401, dtype=torch.float64)[:, None].requires_grad_()
    logits = margin_logits(cosine, torch.zeros(401, dtype=torch.int64), scale=8.0, m1=m1, m2=m2, m3=m3)
    expected = [8.0 * sphere(c, *margins) for c in cosine.detach()[:, 0].tolist()]
    np.testing.assert_allclose(logits.detach()[:, 0].numpy(), expected, atol=1e-9)
    (gradient,) = torch.autograd.grad(logits.sum(), cosine)
    step = 1e-6
    numeric = [
        8.0 * (sphere(c + step, *margins) - sphere(c - step, *margins)) / (2 * step)
        for c in cosine.detach()[:, 0].tolist()
    ]
    np.testing.assert_allclose(gradient[:, 0].numpy(), numeric, atol=1e-3, rtol=1e-5)
    assert (np.diff(expected) > 0).all()  # monotone in the cosine
    assert (gradient > 0).all()


def test_a_fresh_classifier_learns_with_every_margin_that_is_accepted():
    for m1 in (0.5, 1.0, 1.35, 1.6, 2.0, 4.0):
        for m2 in (0.0, 0.5, 1.0, 1.6, 3.0):
            cosine = torch.full((1, 1), -0.1, dtype=torch.float64, requires_grad=True)
            margin_logits(cosine, torch.zeros(1, dtype=torch.int64), scale=1.0, m1=m1, m2=m2).sum().backward()
            assert cosine.grad.item() > 0, (m1, m2)
