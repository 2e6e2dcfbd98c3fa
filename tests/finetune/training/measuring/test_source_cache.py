"""`evaluation.cache`: a second run from one source model measures it without running it, and finds the same."""

import pytest
import torch
from torch import nn

from rtool.converters.records.preprocessing import Preprocessing
from rtool.finetune import load_config, open_dataset
from rtool.finetune.network.networks import Network
from rtool.finetune.training.measuring.held_out import MeasuredSets, embedder_of, hold_out, plan_sets
from rtool.finetune.training.measuring.source_cache import source_cache

PEOPLE = "synthetic-people:identities=6,images=8,seed=2,size=16x8"
CPU = torch.device("cpu")


class Counting(nn.Module):
    """Flatten and multiply; counts the images that it was given."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16 * 8 * 3, 6)
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return self.linear(images.flatten(1))


@pytest.fixture
def config(tmp_path):
    text = f"model: {{reference: m}}\ndata: {{train: '{PEOPLE}'}}\nevaluation: {{cache: {tmp_path / 'cache'}}}\n"
    (tmp_path / "c.yaml").write_text(text + "losses: [{kind: softmax}]\n")
    return load_config(tmp_path / "c.yaml")


def measured(backbone, config, *, room=1000):
    network = Network("m", backbone, Preprocessing(16, 8), 6, lambda *_: None)
    held, _ = hold_out(config.evaluation, open_dataset(PEOPLE), network.preprocessing.resize, room=room, trained=None)
    sets = MeasuredSets(config.evaluation, {"": held}, plan_sets(config.evaluation, {"": held.dataset}))
    cache = source_cache(backbone, network, config, CPU, print)
    return sets.measure(embedder_of(backbone, network, config.model, CPU), print, cache)


@pytest.mark.parametrize("room", [1000, 0], ids=["in memory", "streamed"])
def test_the_second_run_does_not_run_the_model(room, config):
    torch.manual_seed(0)
    backbone = Counting().eval()
    first = measured(backbone, config, room=room)
    assert backbone.seen == 2 * 48
    assert measured(backbone, config, room=room) == first
    assert backbone.seen == 2 * 48


def test_other_weights_or_another_precision_miss_all(config):
    torch.manual_seed(0)
    backbone = Counting().eval()
    measured(backbone, config)
    with torch.no_grad():
        backbone.linear.bias[0] += 1
    measured(backbone, config)
    measured(backbone, config.model_copy(update={"precision": "bf16"}))
    assert backbone.seen == 3 * 2 * 48


def test_without_a_folder_there_is_no_cache(config):
    plain = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"cache": None})})
    assert source_cache(nn.Linear(1, 1), None, plain, CPU, print) is None
