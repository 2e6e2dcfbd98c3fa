"""A found cell is exported, deployed and served as any network: its ONNX file and Triton compute what torch does."""

import numpy as np
import pytest
import torch

from rtool import deploy, export
from rtool.converters import build_architecture, save_bundle
from rtool.converters.records.preprocessing import IMAGENET
from rtool.converters.zoo.cells.genotype import Genotype
from rtool.converters.zoo.cells.space import SearchSpace
from rtool.serving import TritonClient

NODES = ((("part", 0), ("sep3", 1)), (("skip", 0), ("dil3", 2)))


@pytest.mark.slow
def test_a_found_cell_is_served_as_it_was_trained(server, repository, run_local, tmp_path):
    torch.manual_seed(0)
    genotype = Genotype(SearchSpace(nodes=2, channels=4), NODES, NODES)
    options = {"genotype": genotype.to_json(), "embedding_size": 8, "input_size": (64, 32)}
    network = build_architecture("searched", **options)
    network(torch.randn(8, 3, 64, 32))  # moves the running statistics away from 0 and 1
    stated = {"name": "searched", "options": options}
    preprocessing = IMAGENET.__class__(**{**vars(IMAGENET), "height": 64, "width": 32})
    bundle = save_bundle(network.eval(), tmp_path / "found.rtool", architecture=stated, preprocessing=preprocessing)
    file = export(bundle, tmp_path / "found.onnx").path
    images = np.random.default_rng(0).normal(size=(5, 3, 64, 32)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    (local,) = run_local(file, images)
    assert np.abs(local - expected).max() <= 1e-5 * np.abs(expected).max()
    deploy(file, name="found", repository=repository, device="cpu", url=server.url)
    with TritonClient(server.url, "found") as client:
        np.testing.assert_array_equal(client.run(images)[0], local)
