"""What a run gained, by its records: source against best checkpoint."""

from rtool.finetune.runs.gain import compared_metrics, gain_facts, measured_gain

SOURCE = {"kind": "source", "step": 0, "epoch": 0, "mAP": 0.5, "rank1": 0.75, "queries": 8}
EVALUATIONS = [
    {"kind": "evaluation", "step": 4, "epoch": 1, "mAP": 0.75, "rank1": 0.5, "queries": 8},
    {"kind": "train", "step": 6, "epoch": 1, "losses": {"softmax": 1.0}},
    {"kind": "evaluation", "step": 8, "epoch": 2, "mAP": 0.625, "rank1": 1.0, "queries": 8},
]


def test_the_gain_is_that_of_the_best_checkpoint():
    gain = measured_gain([SOURCE, *EVALUATIONS], "mAP")
    assert (gain.before, gain.after, gain.difference) == (0.5, 0.75, 0.25)
    assert str(gain) == "mAP 0.5000 -> 0.7500 (+0.2500)"
    assert measured_gain([SOURCE, *EVALUATIONS], "rank1").after == 1.0


def test_a_loss_is_said():
    gain = measured_gain([SOURCE | {"mAP": 0.875}, *EVALUATIONS], "mAP")
    assert gain.difference == -0.125
    assert "the source model is better than every checkpoint" in str(gain)


def test_what_was_not_measured_is_no_gain():
    assert measured_gain(EVALUATIONS, "mAP") is None
    assert measured_gain([SOURCE], "mAP") is None
    assert gain_facts([SOURCE], "mAP") == {"source_metrics": {"mAP": 0.5, "rank1": 0.75, "queries": 8}, "gain": None}


def test_after_other_data_the_source_no_longer_compares():
    changed = [SOURCE, *EVALUATIONS, {"kind": "source", "step": 8, "epoch": 2}, EVALUATIONS[-1]]
    assert gain_facts(changed, "mAP") == {"source_metrics": None, "gain": None}


def test_an_evaluation_that_was_not_finite_is_not_the_best():
    assert measured_gain([SOURCE, {**EVALUATIONS[0], "mAP": None}, EVALUATIONS[2]], "mAP").after == 0.625


def test_every_share_is_compared_and_the_chosen_metric_comes_first():
    assert compared_metrics([SOURCE, *EVALUATIONS], "rank1") == [
        ("rank1", 0.75, 1.0, 0.25),
        ("mAP", 0.5, 0.625, 0.125),
    ]
