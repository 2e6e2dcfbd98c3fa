"""The largest eigenvalue against the Hessian that torch computes, and when a search ends early."""

import pytest
import torch

from rtool.finetune.search.sharpness import grown_too_sharp, largest_eigenvalue


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_eigenvalue_is_the_largest_of_the_hessian_by_absolute_value(sign):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    alphas = [torch.randn(2, 3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)]
    before = [alpha.detach().clone() for alpha in alphas]

    def loss(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([first.softmax(1).flatten(), second.flatten()])
        return sign * ((mixing @ joined[:6]).square().sum() + 3 * (joined[6:] * joined[:6]).sum() ** 2)

    found = largest_eigenvalue(alphas, lambda: torch.autograd.grad(loss(*alphas), alphas), iterations=200)

    def flat(values: torch.Tensor) -> torch.Tensor:
        return loss(values[:6].view(2, 3), values[6:].view(2, 3))

    hessian = torch.autograd.functional.hessian(flat, torch.cat([alpha.detach().flatten() for alpha in alphas]))
    values = torch.linalg.eigvalsh(hessian)
    expected = values[values.abs().argmax()].item()
    assert found == pytest.approx(expected, rel=1e-3)
    assert all(torch.equal(alpha, kept) for alpha, kept in zip(alphas, before, strict=True))


def test_a_search_ends_once_five_eigenvalues_have_grown_by_a_third_on_the_five_before():
    assert not grown_too_sharp([1.0] * 9)
    assert not grown_too_sharp([1.0] * 5 + [1.33] * 5)
    assert grown_too_sharp([1.0] * 5 + [-1.34] * 5)  # by absolute value
