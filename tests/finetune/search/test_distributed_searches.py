"""Two processes move alpha as one with the whole batch does, and stop where their alphas differ."""

import pytest
import torch

from rtool.errors import GateError
from rtool.finetune.config.search import SearchConfig
from rtool.finetune.search import alphas as alphas_module
from rtool.finetune.search.alphas import Alphas


@pytest.mark.parametrize("program", ["alphas_first_order", "alphas_second_order", "alphas_sampled"])
def test_two_processes_have_the_gradient_of_alpha_of_one(run_ranks, program):
    one, two = run_ranks(program, 1), run_ranks(program, 2)
    assert one.keys() == two.keys()
    assert len(one) == 6  # two kinds of cells, two steps, and the alphas themselves
    for name, tolerance in (("0", 1e-6), ("1", 1e-6), ("2", 1e-5), ("3", 1e-5)):
        # The second step begins from weights and alphas that differ by rounding, which Adam divides by the gradient.
        expected = one[name]
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(two[name], expected, rtol=0, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


def test_alphas_that_differ_between_processes_end_the_search(monkeypatch):
    alphas = Alphas(SearchConfig(), 0, torch.device("cpu"))
    alphas.check_alike(torch.device("cpu"))
    other = Alphas(SearchConfig(), 1, torch.device("cpu"))
    monkeypatch.setattr(
        alphas_module, "gather_rows", lambda rows: torch.tensor([int(rows), other.digest()], dtype=torch.int64)
    )
    with pytest.raises(GateError, match="the alphas of 2 processes are no longer equal"):
        alphas.check_alike(torch.device("cpu"))


def test_the_digest_sees_a_single_bit():
    alphas = Alphas(SearchConfig(), 0, torch.device("cpu"))
    before = alphas.digest()
    with torch.no_grad():
        value = alphas.values[1].view(-1)[3:4]
        value.copy_(torch.nextafter(value, torch.ones(1)))
    assert alphas.digest() != before
