"""No loss asks for a value while it computes: on a GPU each question waits until all work before it is done.

Under torch's fake tensors, which have shapes and no values, every such question is an error. They stand for tensors on
a GPU here, so that the functions that a GPU would run are the ones that are tried.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from rtool.finetune.config.config import FinetuneConfig
from rtool.finetune.losses.heads import build_head
from rtool.finetune.losses.partial_fc import PartialFC

LOSSES = [
    {"kind": "softmax"},
    {"kind": "pcb", "parts": 2},
    {"kind": "arcface"},
    {"kind": "arcface", "filter_above": 0.4, "gradient": "straight_through"},
    {"kind": "arcface", "margins": [2.0, 0.0, 0.0]},
    {"kind": "cosface"},
    {"kind": "circle"},
    {"kind": "adaface"},
    {"kind": "center"},
    {"kind": "triplet"},
    {"kind": "triplet", "margin": "soft", "mining": "weighted", "normalise": True},
    {"kind": "circle_pair"},
    {"kind": "multi_similarity"},
    {"kind": "contrastive"},
    {"kind": "partial_fc", "rate": 1.0},
]


def head_of(loss: dict):
    config = FinetuneConfig.model_validate({"model": {"reference": "-"}, "data": {"train": "-"}, "losses": [loss]})
    return build_head(config.losses[0], 8, 40)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: "-".join(str(value) for value in loss.values()))
def test_a_loss_and_its_gradient_are_computed_without_asking_for_a_value(loss):
    with FakeTensorMode():
        head = head_of(loss)
        embeddings = torch.empty(6, 8, requires_grad=True)
        head(embeddings, torch.empty(6, dtype=torch.int64)).backward()
    assert embeddings.grad.shape == (6, 8)


def test_rows_are_sampled_without_asking_where_they_are_more_than_the_labels():
    with FakeTensorMode(allow_non_fake_inputs=True):
        head = PartialFC(8, 200, rate=0.1).train()
        head._random = lambda count, device: torch.empty(count, device=device)
        head(torch.empty(20, 8, requires_grad=True), torch.empty(20, dtype=torch.int64)).backward()
        head.step(0.1)
    assert head.gradient() is None


def test_the_check_finds_a_question():
    with FakeTensorMode():
        labels = torch.empty(6, dtype=torch.int64)
        with pytest.raises(DataDependentOutputException):
            bool((labels >= 0).any())
        with pytest.raises(DynamicOutputShapeException):
            torch.nonzero(labels >= 0)
