"""The page of a search says whether it decided anything, and shows what its folder holds."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from rtool.converters.zoo.cells.drawing import random_genotype
from rtool.converters.zoo.cells.genotype import write_genotype
from rtool.errors import InputError
from rtool.finetune.config.files import dump_config, parse_config
from rtool.finetune.search.report.comparison import ComparedNetwork, write_comparison
from rtool.finetune.search.report.page import write_search_report

SEARCH = {"nodes": 2, "channels": 4}


def folder(tmp_path: Path, entropy: float | None, **search: object) -> Path:
    """A run folder as a search of two epochs leaves it."""
    config = parse_config(
        {
            "model": {"reference": "searched", "size": [64, 32]},
            "data": {"train": "synthetic-people:identities=4,images=4"},
            "losses": [{"kind": "softmax"}],
            "search": SEARCH | search,
        },
        "test",
    )
    run = tmp_path / "people" / "20261130-120000"
    (run / "search").mkdir(parents=True)
    (run / "config.yaml").write_text(dump_config(config))
    (run / "env.json").write_text(json.dumps({"command": ["rtool", "finetune", "<b>.yaml"], "python": "3.11"}))
    rows = []
    if entropy is not None:
        for epoch, value in ((1, 1.94), (2, entropy)):
            place = {"step": epoch, "epoch": epoch}
            rows.append({"kind": "search", **place, "entropy": value, "skips": {"normal": epoch, "reduce": 0}})
            rows.append({"kind": "evaluation", **place, "mAP": 0.5, "discretised": 0.2, "gap": 0.3})
        alphas = np.random.default_rng(0).normal(size=(2, 10, 7)).astype(np.float32)
        np.save(run / "search" / "alphas.npy", alphas)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    genotype = random_genotype(config.search.space(), np.random.default_rng(0))
    write_genotype(genotype, run / "search" / "genotype.json")
    cells = [
        {"cell": number, "origin": origin, "metrics": metrics, "genotype": genotype.to_json()}
        for number, (origin, metrics) in enumerate([("argmax", [0.2]), ("drawn", [0.4]), ("drawn", [None])])
    ]
    (run / "search" / "shortlist.json").write_text(json.dumps({"metric": "mAP", "found": 1, "cells": cells}))
    return run


def page(run: Path) -> str:
    return write_search_report(run).read_text()


@pytest.mark.parametrize(
    ("entropy", "said"),
    [
        (1.6, "Alpha decided nothing: the mean entropy of its edges is 1.600; equal shares have 1.946"),
        (1.5, "Alpha decided: the mean entropy of its edges is 1.500"),
        (0.8 * math.log(7), "Alpha decided nothing"),
    ],
)
def test_the_page_says_whether_alpha_decided(tmp_path, entropy, said):
    assert said in page(folder(tmp_path, entropy))


def test_the_limit_follows_the_number_of_operations(tmp_path):
    run = folder(tmp_path, 0.9, operations=["none", "skip", "sep3"])
    np.save(run / "search" / "alphas.npy", np.zeros((1, 10, 3), np.float32))
    text = page(run)
    assert f"Alpha decided nothing: the mean entropy of its edges is 0.900; equal shares have {math.log(3):.3f}" in text


def test_a_search_at_random_has_no_alpha_to_decide(tmp_path):
    text = page(folder(tmp_path, None, method="random"))
    assert "there is no alpha to decide anything" in text
    assert "entropy" not in text.split("<h2>Configuration</h2>")[0]


def test_the_page_shows_cells_curves_weights_and_the_shortlist(tmp_path):
    text = page(folder(tmp_path, 1.2))
    for expected in ("normal cell:", "reduction cell:", "chosen operations", "drawn, found"):
        assert expected in text
    assert len(re.findall(r"<svg ", text)) == 2 + 3 + 2  # cells, curves, weights
    ranks = re.findall(r"<td>(argmax|drawn, found|drawn)</td><td class=\"number\">([^<]*)</td>", text)
    assert ranks == [("drawn, found", "0.4000"), ("argmax", "0.2000"), ("drawn", "not a number")]
    assert "&lt;b&gt;.yaml" in text
    assert "rtool bench search" in text


def test_networks_that_were_trained_in_full_stand_beside_each_other(tmp_path):
    run = folder(tmp_path, 1.2)
    seeds = ({"mAP": 0.6, "rank1": 0.7}, {"mAP": 0.5, "rank1": 0.7})
    write_comparison(
        run / "search",
        [
            ComparedNetwork("found cell", "found", 1000, 2_000_000, 1.5, seeds),
            ComparedNetwork("cell 1", "random", 1000, 2_000_000, 1.5, ({"mAP": 0.52}, {"mAP": 0.54})),
            ComparedNetwork("osnet_x0_25", "baseline", 201_864, 82_314_880, None, ({"mAP": 0.4},)),
        ],
    )
    text = page(run)
    assert "0.550 ± 0.071" in text
    assert "at percentile 100 of 1 random cells by mAP (0 to 100 over 2 training seeds)" in text
    assert "Not yet" not in text


def test_alphas_that_are_none_are_named(tmp_path):
    run = folder(tmp_path, 1.2)
    np.save(run / "search" / "alphas.npy", np.zeros(3, np.float32))
    with pytest.raises(InputError, match=r"alphas.npy: expected alphas \[epochs, edges, operations\]"):
        write_search_report(run)
