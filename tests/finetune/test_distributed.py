"""Several processes compute what one computes."""

import torch


def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(run_ranks):
    one, two = run_ranks("gradients", 1), run_ranks("gradients", 2)
    assert one.keys() == two.keys()
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
