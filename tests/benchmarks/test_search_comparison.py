"""Trained networks beside a found cell: grouped by seed, with their roles, costs and closed-set accuracy."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import rtool
from rtool.benchmarks.search_comparison import _top1, _trained_head
from rtool.converters import build_architecture, save_bundle
from rtool.converters.records.preprocessing import IMAGENET
from rtool.converters.zoo.cells.drawing import random_genotype
from rtool.converters.zoo.cells.genotype import Genotype, write_genotype
from rtool.converters.zoo.cells.network_costs import network_costs
from rtool.converters.zoo.cells.space import SearchSpace
from rtool.errors import InputError
from rtool.finetune.config.files import dump_config, parse_config
from rtool.finetune.config.losses import PartsLoss
from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.losses.heads import PartsHead

SPACE = SearchSpace(operations=("none", "skip", "max3"), nodes=1, channels=2)
DATA = "synthetic-people:identities=3,images=2,size=32x16"


def written(folder: Path, **sections: object) -> None:
    config = {"data": {"train": DATA}, "losses": [{"kind": "triplet"}, {"kind": "softmax", "neck": True}], **sections}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(parse_config(config, "test")))
    (folder / "env.json").write_text("{}")


def trained(folder: Path, genotype: Genotype, seed: int, **metrics: float) -> Path:
    """A folder as a run that trained this cell leaves it."""
    options = {"genotype": "gone.json", "embedding_size": 4}
    written(folder, model={"reference": "searched", "options": options}, seed=seed)
    (folder / "result.json").write_text(json.dumps({"finished": True, "metrics": metrics}))
    torch.manual_seed(seed)
    stated = {"genotype": genotype.to_json(), "embedding_size": 4}
    module = build_architecture("searched", **stated).eval()
    architecture = {"name": "searched", "options": stated}
    size = replace(IMAGENET, height=32, width=16)
    (folder / "checkpoints").mkdir()
    bundle = save_bundle(module, folder / "checkpoints/best.rtool", architecture=architecture, preprocessing=size)
    neck = {"weight": torch.rand(4), "bias": torch.rand(4), "running_mean": torch.rand(4), "running_var": torch.rand(4)}
    head = {f"heads/1.neck.{name}": value for name, value in neck.items()}
    save_file(
        head | {"heads/1.weight": torch.randn(3, 4), "heads/1.bias": torch.randn(3)}, bundle / "training.safetensors"
    )
    return folder


@pytest.fixture
def found(tmp_path) -> Genotype:
    genotype = random_genotype(SPACE, np.random.default_rng(0))
    written(tmp_path / "search", model={"reference": "searched"}, search={"operations": list(SPACE.operations)})
    (tmp_path / "search/search").mkdir()
    write_genotype(genotype, tmp_path / "search/search/genotype.json")
    return genotype


@pytest.mark.slow
def test_runs_of_one_cell_are_one_row_with_its_role_and_costs(tmp_path, found):
    other = random_genotype(SPACE, np.random.default_rng(3))
    assert (other.normal, other.reduce) != (found.normal, found.reduce)
    runs = [
        trained(tmp_path / "a", found, 0, mAP=0.5, rank1=0.6),
        trained(tmp_path / "b", found, 1, mAP=0.7, rank1=0.6),
        trained(tmp_path / "c", other, 0, mAP=0.6, rank1=0.6),
    ]
    result = rtool.bench.search(tmp_path / "search", runs, rounds=3)
    first, second = result.networks
    assert (first.name, first.role, first.mean("mAP")) == ("found cell embedding_size=4", "found", pytest.approx(0.6))
    assert (second.role, len(second.metrics)) == ("random", 1)
    assert (first.parameters, first.macs) == network_costs(found, 32, 16, embedding_size=4)
    assert first.latency_ms > 0
    assert result.percentile.random_cells == 1
    assert "found cell embedding_size=4" in result.page.read_text()


def test_closed_set_accuracy_is_that_of_the_runs_own_classifier(tmp_path, found):
    run = trained(tmp_path / "a", found, 4, mAP=0.5)
    dataset = open_dataset(DATA)
    torch.manual_seed(4)
    module = build_architecture("searched", genotype=found.to_json(), embedding_size=4).eval()
    head = load_file(run / "checkpoints/best.rtool/training.safetensors")
    size = replace(IMAGENET, height=32, width=16)
    pixels = np.stack([size.resize(dataset.images[index]) for index in range(len(dataset))])
    images = (torch.from_numpy(pixels).float() - torch.tensor(size.mean)) / torch.tensor(size.std)
    with torch.no_grad():
        rows = module(images.permute(0, 3, 1, 2))
        spread = (head["heads/1.neck.running_var"] + 1e-5).sqrt()
        rows = (rows - head["heads/1.neck.running_mean"]) / spread * head["heads/1.neck.weight"]
        scores = (rows + head["heads/1.neck.bias"]) @ head["heads/1.weight"].T + head["heads/1.bias"]
    right = scores.argmax(dim=1).numpy() == dataset.identities
    assert _top1(run, DATA) == pytest.approx(right.mean())


def test_the_classifiers_of_parts_are_added_up(tmp_path):
    torch.manual_seed(0)
    loss = PartsLoss(kind="pcb", parts=2)
    head = PartsHead(6, 5, 2, 0.0)
    save_file({f"heads/0.{name}": value for name, value in head.state_dict().items()}, tmp_path / "heads.safetensors")
    again = _trained_head(loss, tmp_path / "heads.safetensors", "heads/0.")
    rows = torch.randn(3, 6)
    for part, logits in enumerate(again.logits(rows)):
        classifier = head.classifiers[part]
        torch.testing.assert_close(logits, rows[:, 3 * part : 3 * part + 3] @ classifier.weight.T + classifier.bias)


def test_what_is_no_search_and_no_finished_run_is_refused(tmp_path, found):
    run = trained(tmp_path / "a", found, 0, mAP=0.5)
    with pytest.raises(InputError, match="not a search that has ended"):
        rtool.bench.search(run, [run])
    with pytest.raises(InputError, match="at least one run"):
        rtool.bench.search(tmp_path / "search", [])
    with pytest.raises(InputError, match="not the folder of a run that has ended"):
        rtool.bench.search(tmp_path / "search", [tmp_path])
    (run / "result.json").write_text(json.dumps({"finished": False, "metrics": {}}))
    with pytest.raises(InputError, match="was stopped before its end"):
        rtool.bench.search(tmp_path / "search", [run])
