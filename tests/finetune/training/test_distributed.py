"""Several processes compute what one computes."""

import pytest
import torch
from torch import nn

from rtool.converters.records.preprocessing import Preprocessing
from rtool.finetune.config.config import FinetuneConfig
from rtool.finetune.data.loading import Batch
from rtool.finetune.losses.heads import build_head
from rtool.finetune.network.learner import Learner
from rtool.finetune.training.stepping import Stepper


@pytest.fixture
def stepped():
    """The parameters after one step over 12 images, cut into `parts` batches."""

    def run(parts: int) -> dict[str, torch.Tensor]:
        config = FinetuneConfig.model_validate(
            {
                "model": {"reference": "-"},
                "data": {"train": "-"},
                "losses": [{"kind": "arcface", "scale": 16}],
                "optimizer": {"kind": "sgd", "lr": 0.1, "accumulate": parts},
            }
        )
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Flatten(), nn.Linear(6 * 16, 8))
        learner = Learner(backbone, nn.ModuleList([build_head(config.losses[0], 8, 5)]), output=0, autocast=None)
        stepper = Stepper(config, learner, Preprocessing(6, 6), torch.device("cpu"))
        stepper.begin_epoch(0)
        generator = torch.Generator().manual_seed(1)
        pixels = torch.randint(0, 256, (12, 6, 6, 3), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, 5, (12,), generator=generator)
        stepper.step([Batch(p, y, ()) for p, y in zip(pixels.chunk(parts), labels.chunk(parts), strict=True)], 1.0)
        return {name: value.detach() for name, value in learner.named_parameters()}

    return run


def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(run_ranks):
    one, two = run_ranks("gradients", 1), run_ranks("gradients", 2)
    assert one.keys() == two.keys()
    for name, expected in one.items():
        assert_equal_but_for_rounding(two[name], expected, name)


def assert_equal_but_for_rounding(value: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    """Within 1e-6 of the tensor's largest number (or of 1): float32 rounds sums by their largest terms."""
    tolerance = 1e-6 * max(1.0, expected.abs().max().item())
    torch.testing.assert_close(value, expected, rtol=0, atol=tolerance, msg=lambda m: f"{name}: {m}")


def test_two_processes_distil_as_one_with_the_whole_batch(run_ranks):
    one, two = run_ranks("distilled", 1), run_ranks("distilled", 2)
    assert one.keys() == two.keys()
    for name, expected in one.items():
        assert_equal_but_for_rounding(two[name], expected, name)


def test_two_processes_match_as_one_with_the_whole_batch(run_ranks):
    one, two = run_ranks("matched", 1), run_ranks("matched", 2)
    assert one.keys() == two.keys()
    for name, expected in one.items():
        assert_equal_but_for_rounding(two[name].float(), expected.float(), name)


def test_losses_over_a_detached_map_train_the_same_heads_on_two_processes(run_ranks):
    one, two = run_ranks("detached", 1), run_ranks("detached", 2)
    assert one.keys() == two.keys()
    assert not any(name.startswith("backbone") for name in one)
    for name, expected in one.items():
        assert_equal_but_for_rounding(two[name], expected, name)


def test_accumulated_batches_are_averaged_and_reduced_once_a_step(run_ranks):
    one, two = run_ranks("accumulated", 1), run_ranks("accumulated", 2)
    assert two.pop("reductions") == 2  # of six backward passes, in a network of one bucket
    one.pop("reductions")
    for name, expected in one.items():
        assert_equal_but_for_rounding(two[name], expected, name)


def test_a_network_with_an_unused_output_trains_on_two_processes_as_on_one(run_ranks):
    one, two = run_ranks("two_outputs", 1), run_ranks("two_outputs", 2)
    for name, expected in one.items():
        assert_equal_but_for_rounding(two[name], expected, name)


def test_one_step_of_three_batches_is_one_of_the_batch_they_make(stepped):
    for name, expected in stepped(parts=1).items():
        assert_equal_but_for_rounding(stepped(parts=3)[name], expected, name)
