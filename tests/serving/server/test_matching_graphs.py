"""Both graphs of a run with a matcher, published and asked through Triton: images to maps, and maps to scores."""

import numpy as np
import pytest
import torch

from rtool import deploy
from rtool.converters.bundles.reference import load_model
from rtool.finetune.config.files import parse_config
from rtool.finetune.finetuning import finetune
from rtool.finetune.matching.exporting import export_matching
from rtool.finetune.matching.stored import load_matching
from rtool.serving import TritonClient

RUN = {
    "epochs": 1,
    "steps_per_epoch": 2,
    "model": {"reference": "osnet_x0_25", "size": [64, 32]},
    "data": {"train": "synthetic-people:identities=8,images=4,seed=1,size=64x32", "batch": 8, "sampler": "pk"},
    "augment": {"mask": 0.5, "mask_kinds": ["block"]},
    "losses": [{"kind": "arcface"}, {"kind": "qaconv", "visibility": "mask"}, {"kind": "occlusion", "hidden": 8}],
    "evaluation": None,
    "tracking": {"tensorboard": False},
}


@pytest.mark.slow
def test_two_served_graphs_score_pairs_as_the_trained_run_does(server, repository, tmp_path):
    run = finetune(parse_config({**RUN, "output": str(tmp_path / "runs")}, "pairs"), quiet=True)
    export_matching(run.run_dir, tmp_path / "images.onnx", tmp_path / "matcher.onnx")
    for name in ("images", "matcher"):
        deploy(tmp_path / f"{name}.onnx", name=f"{name}_of_pairs", repository=repository, device="cpu", url=server.url)
    pixels = np.random.default_rng(0).normal(size=(4, 3, 64, 32)).astype(np.float32)
    order = np.array([1, 2, 3, 0])
    with TritonClient(server.url, "images_of_pairs") as client:
        embeddings, maps, visible = client.run(pixels)
    with TritonClient(server.url, "matcher_of_pairs") as client:
        (scores,) = client.run(maps, maps[order], visible, visible[order])
    matching = load_matching(run.last, load_model(run.last).module, torch.from_numpy(pixels[:2]))
    with torch.no_grad():
        seen = matching.describe(torch.from_numpy(pixels))
        expected = matching.scores(seen, seen[torch.from_numpy(order)])
    for found, own in ((embeddings, seen.embeddings), (maps, seen.maps), (visible, seen.visible)):
        assert np.abs(found - own.numpy()).max() <= 1e-5 * float(own.abs().max())
    assert np.abs(scores - expected.numpy()).max() <= 1e-5
