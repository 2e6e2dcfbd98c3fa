"""A found cell as the network of a run: its checkpoints need no genotype file, and a missing file is named."""

import numpy as np
import pytest
import torch

from rtool.converters.bundles.bundle import load_bundle
from rtool.converters.zoo.cells.drawing import random_genotype
from rtool.converters.zoo.cells.genotype import write_genotype
from rtool.converters.zoo.cells.space import SearchSpace
from rtool.errors import InputError
from rtool.finetune.config.config import ModelConfig
from rtool.finetune.network.networks import load_network


def test_a_bundle_of_a_found_cell_states_the_cell_itself(tmp_path):
    genotype = random_genotype(SearchSpace(nodes=2, channels=4), np.random.default_rng(0))
    file = tmp_path / "genotype.json"
    write_genotype(genotype, file)
    options = {"genotype": str(file), "embedding_size": 8}
    network = load_network(ModelConfig(reference="searched", options=options, size=(64, 32)))
    assert network.dimension == 8
    network.save(tmp_path / "found.rtool", network.module, None)
    file.unlink()
    bundle = load_bundle(tmp_path / "found.rtool")
    assert bundle.metadata["architecture"]["options"]["genotype"] == genotype.to_json()
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(bundle.module(images), network.module.eval()(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "searched: needs option genotype: a file genotype.json"),
        ({"genotype": "nowhere.json"}, "nowhere.json: no such genotype; a search writes RUN/search/genotype.json"),
        ({"genotype": 3}, "option genotype takes a file genotype.json"),
    ],
)
def test_a_found_cell_without_its_genotype_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        load_network(ModelConfig(reference="searched", options=options))


def test_images_that_are_too_low_for_parts_are_refused(tmp_path):
    space = SearchSpace(operations=("none", "part"), nodes=2, channels=4)
    write_genotype(random_genotype(space, np.random.default_rng(0)), tmp_path / "genotype.json")
    options = {"genotype": str(tmp_path / "genotype.json")}
    with pytest.raises(InputError, match=r"needs a row for each of its 4 parts, and here the features are"):
        load_network(ModelConfig(reference="searched", options=options, size=(16, 16)))
