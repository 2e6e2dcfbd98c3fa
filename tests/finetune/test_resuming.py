"""Going on with a run: what may be changed, what is refused with its name, and what damage is told."""

from rtool.finetune.config import ModelConfig
from rtool.finetune.networks import load_network


def test_a_zoo_model_with_options_is_read_back_from_its_checkpoint(tmp_path):
    config = ModelConfig(reference="iresnet18", size=(32, 32), options={"dropout": 0.1})
    network = load_network(config)
    network.save(tmp_path / "checkpoint.rtool", network.module, None)
    assert load_network(config, tmp_path / "checkpoint.rtool").dimension == network.dimension
