"""`evaluation.function` in a run: its numbers are the metrics, and its mistakes are found before the first step."""

import numpy as np
import pytest

from rtool.errors import ConfigError
from rtool.finetune.config.config import EvaluationConfig
from rtool.finetune.data.decoding import read_pixels
from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.evaluation.several_sets import choose_metric
from rtool.finetune.training.measuring.held_out import HeldOutImages, MeasuredSets, plan_sets, protocol_of

FACES = "synthetic-faces:identities=4,images=3,seed=1,size=16x16"
SOURCE = """
def evaluate(images):
    assert images.embeddings.dtype == "float32" and images.pairs is None
    return {"mean": images.embeddings.mean(), "people": images.identities.max() + 1}
"""


def resize(image):
    return np.asarray(image)


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_evaluation_of_a_run.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return "own_evaluation_of_a_run:evaluate"


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("names", [("",), ("one", "two")])
def test_what_the_function_returns_are_the_metrics(module, names, in_memory):
    evaluation = EvaluationConfig(function=module, flip=False)
    datasets = dict.fromkeys(names, open_dataset(FACES))
    plans = plan_sets(evaluation, datasets)
    held = {
        name: HeldOutImages(dataset, resize, read_pixels(dataset, resize) if in_memory else None)
        for name, dataset in datasets.items()
    }
    asked = "people" if names == ("",) else "mean.people"
    assert choose_metric(plans, asked) == asked
    values = MeasuredSets(evaluation, held, plans).measure(
        lambda pixels: np.full((len(pixels), 2), 3, "f4"), lambda line: None
    )
    assert values[asked] == 4.0
    assert values["mean" if names == ("",) else "two.mean"] == 3.0
    unknown = MeasuredSets(evaluation.model_copy(update={"metric": "poeple"}), held, plans)
    with pytest.raises(ConfigError, match=r"'poeple' was not measured; did you mean .*people"):
        unknown.measure(lambda pixels: np.ones((len(pixels), 2), "f4"), lambda line: None)


def test_mistakes_are_found_when_the_run_is_planned(module):
    datasets = {"": open_dataset(FACES)}
    with pytest.raises(ConfigError, match="own_evaluation_of_a_run has no 'evaluat'; did you mean evaluate"):
        plan_sets(EvaluationConfig(function=module.removesuffix("e")), datasets)
    with pytest.raises(ConfigError, match=r"name the value of evaluation\.function that chooses"):
        choose_metric(plan_sets(EvaluationConfig(function=module), datasets), None)
    with pytest.raises(ConfigError, match="measures instead of a protocol; leave retrieval out"):
        protocol_of(EvaluationConfig(function=module, protocol="retrieval"))
