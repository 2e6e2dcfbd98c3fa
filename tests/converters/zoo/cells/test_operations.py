"""Each operation: shapes at odd sizes and single images, gradients, and what the specification says it computes."""

import math

import pytest
import torch
from torch.nn import functional as F

from rtool.converters.zoo.cells.operations import build_operation
from rtool.converters.zoo.cells.part_attention import PartAttention
from rtool.converters.zoo.cells.space import OPERATIONS, PLANTED
from rtool.errors import InputError


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(4, 4), (5, 3), (6, 8), (7, 5)])
@pytest.mark.parametrize("name", [*OPERATIONS, *PLANTED])
def test_every_operation_halves_rounding_up_for_single_images_too(name, size, stride):
    torch.manual_seed(0)
    operation = build_operation(name, 6, stride, affine=False)
    images = torch.randn(1, 6, *size, requires_grad=True)
    out = operation(images)
    assert out.shape == (1, 6, *((side + stride - 1) // stride for side in size))
    assert torch.isfinite(out).all()
    if name not in ("none", "noise"):
        (out * torch.randn_like(out)).sum().backward()
        assert images.grad.abs().sum() > 0
        assert all(parameter.grad is not None for parameter in operation.parameters())


@pytest.mark.parametrize("name", ["skip", "max3", "avg3", "sep3", "dil3", "part"])
def test_batchnorms_have_weights_only_where_asked(name):
    plain, affine = (build_operation(name, 4, 2, affine=each) for each in (False, True))
    assert not any(name.endswith("bias") for name in plain.state_dict())
    assert any(name.endswith("bias") for name in affine.state_dict())


def test_nothing_is_zeros_and_skip_is_its_input():
    images = torch.randn(2, 4, 5, 5)
    assert build_operation("none", 4, 2, affine=True)(images).eq(0).all()
    assert build_operation("skip", 4, 1, affine=True)(images) is images


def test_halving_loses_no_row_of_an_odd_height():
    torch.manual_seed(0)
    halving = build_operation("skip", 4, 2, affine=True).eval()
    for row in range(7):
        images = torch.zeros(1, 4, 7, 4)
        images[:, :, row] = 1
        assert halving(images).abs().sum() > 0, row
    image = torch.randn(1, 4, 7, 5)
    padded = F.pad(F.relu(image), (0, 1, 0, 1))
    expected = torch.cat(
        [
            torch.einsum("nchw,oc->nohw", padded[:, :, 0:7:2, 0:5:2], halving.even.weight[:, :, 0, 0]),
            torch.einsum("nchw,oc->nohw", padded[:, :, 1:8:2, 1:6:2], halving.odd.weight[:, :, 0, 0]),
        ],
        dim=1,
    )
    torch.testing.assert_close(halving(image), expected / (1 + halving.bn.eps) ** 0.5)


def test_the_average_does_not_count_the_padding():
    torch.manual_seed(0)
    out = build_operation("avg3", 2, 1, affine=True).eval()(torch.ones(1, 2, 3, 3))
    torch.testing.assert_close(out, torch.full((1, 2, 3, 3), (1 + 1e-5) ** -0.5))


@pytest.mark.parametrize(("name", "reach"), [("sep3", 2), ("dil3", 2), ("max3", 1)])
def test_the_receptive_field_is_that_of_the_kernels(name, reach):
    torch.manual_seed(0)
    operation = build_operation(name, 3, 1, affine=True).eval()
    images = torch.rand(1, 3, 9, 9, requires_grad=True)
    operation(images)[0, :, 4, 4].sum().backward()
    rows = images.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten().tolist()
    assert min(rows) >= 4 - reach
    assert max(rows) <= 4 + reach
    if name == "dil3":
        assert set(rows) <= {2, 4, 6}


def test_noise_has_nothing_of_its_input():
    noise = build_operation("noise", 3, 2, affine=True)
    draws = [torch.manual_seed(5) and noise(torch.full((64, 3, 16, 16), value)) for value in (0.0, 1e3)]
    assert torch.equal(*draws)
    assert draws[0].mean().abs() < 0.02
    assert (draws[0].std() - 1).abs() < 0.02


@pytest.mark.parametrize("height", [4, 5, 6, 7, 8, 11])
def test_strips_cover_the_rows_and_each_row_gets_its_part(height):
    torch.manual_seed(0)
    features = torch.randn(2, 3, height, 5)
    operation = PartAttention(3, 1, affine=True)
    parts = operation.parts(features)
    for part in range(4):
        strip = features[:, :, math.floor(part * height / 4) : math.ceil((part + 1) * height / 4)]
        torch.testing.assert_close(parts[:, part], strip.mean(dim=(2, 3)))
    mixed = operation.attention(parts) @ operation.value(parts)
    rows = operation.exchanged(features)
    assert rows.shape == (2, 3, height, 1)
    for row in range(height):
        torch.testing.assert_close(rows[:, :, row, 0], mixed[:, row * 4 // height])


def test_parts_read_each_other_by_attention_over_parts():
    torch.manual_seed(0)
    operation = PartAttention(5, 1, affine=True).double()
    features = torch.randn(2, 5, 8, 3, dtype=torch.float64)
    parts = features.reshape(2, 5, 4, 6).mean(dim=3).transpose(1, 2)
    query, key, value = (parts @ layer.weight.T for layer in (operation.query, operation.key, operation.value))
    scores = torch.einsum("nic,njc->nij", query, key) / 5**0.5
    shares = scores.exp() / scores.exp().sum(dim=2, keepdim=True)
    torch.testing.assert_close(operation.attention(parts), shares)
    expected = torch.einsum("nij,njc->nic", shares, value).repeat_interleave(2, dim=1).transpose(1, 2)[..., None]
    torch.testing.assert_close(operation.exchanged(features), expected)


def test_equal_strips_share_attention_equally():
    operation = PartAttention(6, 1, affine=True)
    strip = torch.randn(1, 6, 2, 3)
    parts = operation.parts(strip.repeat(1, 1, 4, 1))
    torch.testing.assert_close(operation.attention(parts), torch.full((1, 4, 4), 0.25))


def test_permuting_strips_permutes_rows():
    torch.manual_seed(0)
    operation = PartAttention(6, 1, affine=True).eval()
    strips = list(torch.randn(2, 6, 12, 3).split(3, dim=2))
    order = [2, 0, 3, 1]
    permuted = operation(torch.cat([strips[index] for index in order], dim=2)).split(3, dim=2)
    original = operation(torch.cat(strips, dim=2)).split(3, dim=2)
    for place, index in enumerate(order):
        torch.testing.assert_close(permuted[place], original[index])


def test_fewer_rows_than_parts_are_refused():
    with pytest.raises(InputError, match=r"needs a row for each of its 4 parts, and here the features are 3 high"):
        build_operation("part", 4, 1, affine=True)(torch.zeros(1, 4, 3, 8))


def test_unknown_operations_are_refused():
    with pytest.raises(InputError, match=r"unknown operation 'sep33'; did you mean sep3"):
        build_operation("sep33", 4, 1, affine=True)
