"""The memory that a plan states is what the steps of weights and alpha take."""

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from rtool.finetune.config.files import parse_config
from rtool.finetune.data.dataset import ArrayImages, Dataset
from rtool.finetune.data.loading import Batch, TrainingPixels
from rtool.finetune.network.search_backbone import open_network
from rtool.finetune.runs.alongside import Place
from rtool.finetune.search.alternating import AlphaSteps
from rtool.finetune.training.assembly import assemble_learner
from rtool.finetune.training.planning import plan_run
from rtool.finetune.training.stepping import Stepper

BATCH = 16
SIZE = (96, 48)


def peak_bytes(config) -> int:
    """The largest sum of allocations during a step of alpha and one of the weights, from the allocator's own events."""
    device = torch.device("cpu")
    network = open_network(config)
    learner, _ = assemble_learner(config, network, 8, device)
    stepper = Stepper(config, learner, network.preprocessing, device, skips_parameters=True)
    stepper.begin_epoch(0)
    pixels = np.random.default_rng(0).integers(0, 256, (32, *SIZE, 3), dtype=np.uint8)
    labels = np.tile(np.arange(8), 4)
    people = Dataset("people", ArrayImages(pixels), labels, np.zeros(32, dtype=np.int64), ["x"] * 32)
    images = TrainingPixels(people, np.asarray, pixels)
    steps = AlphaSteps(config, config.search, learner, stepper, images, network.preprocessing, device)
    batch = Batch(torch.from_numpy(pixels[:BATCH]), torch.from_numpy(labels[:BATCH]), ())
    if config.search.method == "sampled":  # a plan states what the dearest path takes
        for value in steps.alphas.values:
            value.data[:, config.search.operations.index("sep3")] = 100.0
    for number in range(2):  # the first makes the optimizers' states
        before = sum(p.numel() * 4 for p in learner.parameters())
        states = [value for state in stepper.optimizer.state.values() for value in state.values()]
        before += sum(value.numel() * value.element_size() for value in states if isinstance(value, torch.Tensor))
        before += sum(p.grad.numel() * 4 for p in learner.parameters() if p.grad is not None)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
            steps.step(Place(1, number, 2, 2), 1.0, [batch])
            stepper.step([batch], 1.0)
    events = sorted(
        (event for event in measured.profiler.kineto_results.events() if event.name() == "[memory]"),
        key=lambda event: event.start_ns(),
    )
    return before + int(np.cumsum([event.nbytes() for event in events]).max())


@pytest.mark.parametrize(
    "search",
    [
        {"method": "sampled"},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"method": "partial"}, marks=pytest.mark.slow),
        pytest.param({"order": 2, "guard": "auxiliary_skip"}, marks=pytest.mark.slow),
    ],
)
def test_the_estimate_of_a_plan_is_within_15_percent_of_the_real_peak(search):
    config = parse_config(
        {
            "model": {"reference": "searched", "size": list(SIZE)},
            "data": {
                "train": "synthetic-people:identities=8,images=8,size=96x48",
                "batch": BATCH,
                "sampler": "pk",
                "images_per_identity": 2,
            },
            "losses": [{"kind": "softmax"}, {"kind": "triplet"}],
            "optimizer": {"kind": "sgd"},
            "evaluation": None,
            "search": {"channels": 8, "guard": "none", "shortlist": 1, **search},
        },
        "memory",
    )
    planned = plan_run(config).memory
    real = peak_bytes(config)
    assert planned == pytest.approx(real, rel=0.15)
