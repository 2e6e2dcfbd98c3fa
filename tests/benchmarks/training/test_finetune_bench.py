"""How figures of fine-tuning are combined: seeds of several calls, sizes that do not fit, and computed tables."""

import json

import pytest

from rtool.benchmarks.places import EXAMPLES
from rtool.benchmarks.training import finetune_bench, finetune_quality
from rtool.benchmarks.training.finetune_quality import combine_seeds, measure_quality, quality_recipes
from rtool.benchmarks.training.partial_fc_step import memory_on_gpus, scaled_by_rows
from rtool.errors import InputError
from rtool.finetune.config.files import load_config


@pytest.fixture
def reached(monkeypatch):
    """What each seed reaches, instead of training."""
    values = {0: 0.97, 1: 0.96, 2: 0.94}
    monkeypatch.setattr(finetune_quality, "_run", lambda recipe, seed, _: {recipe.metric: values[seed]})


def test_seeds_of_several_calls_are_combined_and_all_must_reach_the_target(reached):
    first = measure_quality(seeds=[1], names=["synthetic faces"])
    both = combine_seeds(first, measure_quality(seeds=[0], names=["synthetic faces"]))
    assert both["synthetic faces"]["reached"] == [0.97, 0.96]
    assert both["synthetic faces"]["passed"]
    missed = combine_seeds(both, measure_quality(seeds=[2], names=["synthetic faces"]))
    assert missed["synthetic faces"]["reached"] == [0.97, 0.96, 0.94]
    assert not missed["synthetic faces"]["passed"]
    changed = {"synthetic faces": {**first["synthetic faces"], "changes": ["epochs=99"]}}
    assert combine_seeds(changed, both)["synthetic faces"]["runs"].keys() == {"0", "1"}
    assert combine_seeds(both, changed)["synthetic faces"]["runs"].keys() == {"1"}


def test_the_file_of_the_day_combines_them_and_a_miss_is_the_exit_code(reached, tmp_path, capsys):
    command = ["quality", "--recipes", "synthetic faces", "--output", str(tmp_path), "--seeds"]
    assert finetune_bench.main([*command, "0"]) == 0
    assert finetune_bench.main([*command, "2"]) == 1
    (path,) = tmp_path.iterdir()
    report = json.loads(path.read_text())
    assert report["result"]["synthetic faces"]["reached"] == [0.97, 0.94]
    assert report["machine"]["libraries"]["torch"]


@pytest.mark.slow
def test_waiting_for_data_is_read_from_the_log_of_a_run():
    (measured,) = (values for name, values in finetune_bench.measure_data([0]).items() if name.startswith("workers_"))
    assert 0 < measured["data_wait"] < 1
    assert 0 < measured["images_per_second"] < measured["loader_alone_images_per_second"]


def test_unknown_names_are_refused(tmp_path, capsys):
    with pytest.raises(InputError, match="did you mean synthetic faces"):
        measure_quality(names=["synthetic face"])
    with pytest.raises(SystemExit):
        finetune_bench.main(["qualty", "--output", str(tmp_path)])
    assert "known: step, data, partial_fc, quality" in capsys.readouterr().err


def test_every_recipe_is_an_example_with_fields_that_exist(tmp_path):
    for recipe in quality_recipes(tmp_path).values():
        load_config(EXAMPLES / recipe.example, recipe.overrides)


def test_a_dense_layer_that_does_not_fit_is_computed_by_its_rows_and_marked():
    measured = {"kind": "dense", "identities": 1000, "processor_seconds_per_step": 2.0, "peak_gigabytes": 1.5}
    row = scaled_by_rows(measured, 3000)
    assert (row["rows_touched"], row["processor_seconds_per_step"], row["peak_gigabytes"]) == (3000, 6.0, 4.5)
    assert "from 1000 identities" in row["computed"]


def test_memory_of_29_million_identities_on_8_gpus():
    dense, arcface_torch, sparse = memory_on_gpus(29_000_000)
    rows = 29_000_000 // 8
    assert sparse["weights"] == pytest.approx(rows * 512 * 4 / 1e9, abs=0.01)  # 7.4, as arcface_torch's notes have it
    assert sparse["gradient"] == pytest.approx(0.1 * rows * 512 * 4 / 1e9, abs=0.01)
    assert dense["logits"] == pytest.approx(8 * 128 * rows * 4 * 2 / 1e9, abs=0.01)
    assert arcface_torch["gigabytes_per_gpu"] - sparse["gigabytes_per_gpu"] == pytest.approx(0.9 * 7.424, abs=0.02)
