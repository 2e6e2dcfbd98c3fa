"""The summary of the distillation benchmark: gains over the same seeds, and what counts as passed."""

import pytest

from rtool.benchmarks.distillation.distil_bench import summary, table
from rtool.benchmarks.distillation.tasks import RECIPES, TASKS, recipe_config
from rtool.finetune.config.config import FinetuneConfig


def runs(**values: list[float]) -> dict[str, dict[str, dict[str, float]]]:
    names = {"base": "no teacher", "cosine": "cosine", "both": "cosine and RKD", "free": "without labels and longer"}
    return {
        names[key]: {str(seed): {"mAP": value, "steps": 9, "seconds": 1} for seed, value in enumerate(each)}
        for key, each in values.items()
    }


def test_gains_are_over_the_seeds_that_both_recipes_have():
    measured = {"people": runs(base=[0.2, 0.4, 0.3], cosine=[0.5, 0.5, 0.5], both=[0.9], free=[0.8])}
    found = summary(measured, {"people": 0.9})["people"]
    assert found["gains"]["cosine"] == pytest.approx(0.2)
    assert (found["best"], found["seeds_of_best"]) == ("cosine", 3)  # the other has one seed
    assert found["share_without_labels"] == pytest.approx(0.8889)
    assert found["passed"]
    assert "| cosine | 0.5000 | +0.2000 | 0: 0.5000, 1: 0.5000, 2: 0.5000 | 9 | 1 |" in table(
        measured, {"people": found}
    )


@pytest.mark.parametrize(("cosine", "free"), [([0.22] * 3, [0.9]), ([0.5] * 3, [0.7]), ([0.5], [0.9])])
def test_a_small_gain_a_small_share_and_one_seed_do_not_pass(cosine, free):
    measured = {"people": runs(base=[0.2] * 3, cosine=cosine, free=free)}
    assert not summary(measured, {"people": 0.9})["people"]["passed"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_a_configuration(task, recipe, tmp_path):
    if task == "faces":
        (tmp_path / "faces-student-0.onnx").touch()
    FinetuneConfig.model_validate(recipe_config(task, recipe, 0, tmp_path / "teacher.onnx", tmp_path))
