"""The matcher against numbers worked out by hand, a version in four loops, and its own symmetries."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from rtool.errors import InputError
from rtool.finetune.matching.best_matches import best_matches, unit_vectors
from rtool.finetune.matching.matcher import Matcher

G = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]).transpose(1, 2).unsqueeze(2)  # locations (1, 0) and (0, 1): [1, 2, 1, 2]
P = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]]).transpose(1, 2).unsqueeze(2)


def identity(size, weighting="scaling"):
    matcher = Matcher(size, weighting).eval()
    for layer in (matcher.bn, matcher.logit_bn):
        layer.eps = 0.0
    return matcher


def visibility(*values):
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1)


def random_matcher(size, weighting, seed=0):
    matcher = Matcher(size, weighting).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in (matcher.bn, matcher.logit_bn):
            layer.running_mean.normal_(generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
            layer.weight.uniform_(0.5, 2, generator=generator)
            layer.bias.normal_(generator=generator)
        matcher.fc.weight.normal_(generator=generator)
        matcher.fc.bias.normal_(generator=generator)
    return matcher


def random_maps(count, size, channels=5, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, channels, *size)))


def random_visible(count, size, seed=0, *, binary=False):
    values = np.random.default_rng(seed).uniform(size=(count, 1, *size))
    values = (values > 0.4).astype(float) if binary else values
    values[..., 0, 0] = 1.0
    return torch.from_numpy(values)


def four_loops(matcher, g, p, vg, vp):
    """The score of one pair, from the formulas."""
    (h, w), scaling = matcher.size, matcher.weighting == "scaling"
    cells = list(product(range(h), range(w)))

    def norm(layer, x):
        unscaled = (x - layer.running_mean.item()) / np.sqrt(layer.running_var.item() + layer.eps)
        return unscaled * layer.weight.item() + layer.bias.item()

    def unit(m, c):
        return m[:, c[0], c[1]] / np.linalg.norm(m[:, c[0], c[1]])

    weights, bias = matcher.fc.weight.detach().numpy()[0], matcher.fc.bias.item()
    total = 0.0
    for own, other, v_own, v_other in ((p, g, vp, vg), (g, p, vg, vp)):
        best = []
        for s in cells:
            values = []
            for r in cells:
                cosine = float(unit(own, s) @ unit(other, r))
                if scaling:
                    values.append(v_own[s] * v_other[r] * cosine)
                elif v_other[r] > 0:
                    values.append(cosine)
            best.append(max(values))
        if scaling:
            total += sum(weight * norm(matcher.bn, b) for weight, b in zip(weights, best, strict=True)) + bias
        else:
            seen = [v_own[s] for s in cells]
            summed = sum(wt * v * norm(matcher.bn, b) for wt, v, b in zip(weights, seen, best, strict=True))
            total += summed * len(cells) / sum(seen) + bias
    return norm(matcher.logit_bn, total)


def test_the_score_of_two_small_maps_worked_out_by_hand():
    assert identity((1, 2))(G, P).item() == pytest.approx(1.8, abs=1e-6)
    assert Matcher((1, 2)).eval()(G, P).item() == pytest.approx(1.79998, abs=1e-5)


def test_visibility_scales_similarity_before_the_maxima_and_is_not_transposed():
    visible_g, visible_p = visibility(1, 0), visibility(1, 0.5)
    assert identity((1, 2))(G, P, visible_g, visible_p).item() == pytest.approx(1.15, abs=1e-6)
    assert identity((1, 2))(G, P, visible_p, visible_g).item() == pytest.approx(1.0, abs=1e-6)


def test_scaling_lets_a_hidden_location_beat_a_negative_one_and_mask_does_not():
    g = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]).unsqueeze(2)
    p = torch.tensor([[[-0.6, -0.6], [0.8, 0.8]]]).unsqueeze(2)  # all cosines are -0.6
    half = visibility(1, 0)
    assert identity((1, 2))(g, p).item() == pytest.approx(-1.2, abs=1e-6)
    # a = (0, 0), b = (-0.6, 0)
    assert identity((1, 2))(g, p, half).item() == pytest.approx(-0.3, abs=1e-6)
    assert identity((1, 2), "mask")(g, p, half).item() == pytest.approx(-1.2, abs=1e-6)


@pytest.mark.parametrize("weighting", ["scaling", "mask"])
def test_it_equals_four_loops(weighting):
    size = (2, 3)
    matcher = random_matcher(size, weighting)
    g, p = random_maps(3, size), random_maps(2, size, seed=1)
    vg, vp = (random_visible(n, size, seed=n, binary=weighting == "mask") for n in (3, 2))
    found = matcher(g, p, vg, vp).detach().numpy()
    expected = [
        [four_loops(matcher, g[i].numpy(), p[j].numpy(), vg[i, 0].numpy(), vp[j, 0].numpy()) for j in range(2)]
        for i in range(3)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    listed = matcher.pairs(g[[0, 2, 1]], p[[1, 0, 0]], vg[[0, 2, 1]], vp[[1, 0, 0]]).detach().numpy()
    np.testing.assert_allclose(listed, [expected[0][1], expected[2][0], expected[1][0]], atol=1e-9)


@pytest.mark.parametrize("weighting", ["scaling", "mask"])
def test_it_is_symmetric_and_sees_everything_by_default(weighting):
    size = (2, 3)
    matcher = random_matcher(size, weighting)
    g, p = random_maps(3, size), random_maps(2, size, seed=1)
    vg, vp = random_visible(3, size), random_visible(2, size, seed=1)
    torch.testing.assert_close(matcher(g, p, vg, vp), matcher(p, g, vp, vg).T, atol=1e-12, rtol=0)
    everything = matcher(g, p, torch.ones_like(vg), torch.ones_like(vp))
    torch.testing.assert_close(everything, matcher(g, p), atol=1e-12, rtol=0)
    torch.testing.assert_close(matcher(g, p, None, vp), matcher(g, p, torch.ones_like(vg), vp), atol=1e-12, rtol=0)


@pytest.mark.parametrize("weighting", ["scaling", "mask"])
def test_with_uniform_weights_the_order_of_locations_does_not_matter(weighting):
    matcher = Matcher((2, 3), weighting).double().eval()
    g, p = random_maps(2, (2, 3)), random_maps(2, (2, 3), seed=1)
    vg, vp = random_visible(2, (2, 3)), random_visible(2, (2, 3), seed=1)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = [each.flatten(2)[..., order].unflatten(2, (2, 3)) for each in (g, vg)]
    torch.testing.assert_close(matcher(moved[0], p, moved[1], vp), matcher(g, p, vg, vp), atol=1e-12, rtol=0)


def test_the_length_of_a_vector_does_not_matter():
    matcher, maps = random_matcher((2, 3), "scaling"), random_maps(3, (2, 3))
    torch.testing.assert_close(matcher(maps, 7 * maps), matcher(maps, maps))


@pytest.mark.parametrize("weighting", ["scaling", "mask"])
def test_within_a_batch_the_statistics_are_of_pairs_of_different_images(weighting):
    maps, visible = random_maps(4, (2, 2)), random_visible(4, (2, 2))
    matcher = random_matcher((2, 2), weighting)
    others = ~torch.eye(4, dtype=torch.bool)
    torch.testing.assert_close(
        matcher.within(maps, visible)[others], matcher(maps, maps, visible, visible)[others], atol=1e-12, rtol=0
    )
    first, second = (torch.tensor([p[k] for p in product(range(4), range(4)) if p[0] != p[1]]) for k in (0, 1))
    listed = random_matcher((2, 2), weighting).train()
    expected = listed.pairs(maps[first], maps[second], visible[first], visible[second])
    scores = matcher.train().within(maps, visible)
    torch.testing.assert_close(scores[first, second], expected, atol=1e-12, rtol=0)
    assert not scores.diagonal().any()
    torch.testing.assert_close(matcher.bn.running_mean, listed.bn.running_mean)


def test_parts_of_the_probes_change_nothing(monkeypatch):
    first, second = unit_vectors(random_maps(3, (2, 2))), unit_vectors(random_maps(5, (2, 2), seed=1))
    whole = best_matches(first, second)
    monkeypatch.setattr("rtool.finetune.matching.best_matches._PART_BYTES", 1)
    for found, expected in zip(best_matches(first, second), whole, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("weighting", ["scaling", "mask"])
def test_gradients_are_those_of_finite_differences(weighting):
    matcher = random_matcher((2, 2), weighting).train()
    maps = random_maps(3, (2, 2), channels=3).requires_grad_()
    visible = random_visible(3, (2, 2)).requires_grad_()

    def scores(maps, visible, *_):
        for layer in (matcher.bn, matcher.logit_bn):
            layer.momentum = 0.0  # repeated calls move nothing
        return matcher.within(maps, visible)

    assert torch.autograd.gradcheck(scores, (maps, visible, *matcher.parameters()))


def test_maps_of_another_size_are_refused_with_both_sizes():
    with pytest.raises(InputError, match=r"2x3, got 3x2"):
        Matcher((2, 3))(torch.zeros(1, 4, 2, 3), torch.zeros(1, 4, 3, 2))
    with pytest.raises(InputError, match=r"2x3, got 1x1"):
        Matcher((2, 3))(torch.zeros(1, 4, 2, 3), torch.zeros(1, 4, 2, 3), torch.ones(1, 1, 1, 1))
    with pytest.raises(InputError, match="batch of 2"):
        Matcher((2, 3)).within(torch.zeros(1, 4, 2, 3))


def test_norms_have_no_weight_decay_and_the_shared_layer_has():
    from rtool.finetune.network.product_factors import product_factors

    matcher = Matcher((7, 7))
    assert [id(p) for p in product_factors(matcher)] == [id(matcher.fc.weight)]
    assert isinstance(matcher.bn, nn.BatchNorm1d)
